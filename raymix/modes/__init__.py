"""Is a data set multi-modal, and where? What `raymix data modes` answers.

Mixture density networks of 1, 2, 5, 10 and 20 components are fitted to most episodes; episodes held out say how likely
each makes their actions, and the smallest mixture that loses nothing to the best is asked how many modes it has at
held-out states. Four things keep the answer honest:

- Actions have a resolution: normal noise of sd 0.05 (the box is [-1, 1]) is added to them, before the split. Without it
  the likelihood has no upper bound where a policy is deterministic or saturates, and says only how narrow a component
  may get. Modes nearer to each other than about 0.2 are therefore one.
- The box cuts actions, and what piles up at its edge is no mode of its own: of an action there, the likelihood is that
  of all that lies beyond (Tobin, 1958, as for censored data), and means may lie outside the box. So a policy that
  saturates, or that swings from edge to edge within a short way, is one Gaussian of a smooth mean, and four goals whose
  actions reach the edges are four. What this cannot tell from one mode: actions at both edges and evenly between.
- Components are not modes. They tile whatever is not Gaussian: flat or skewed noise, noise that is correlated between
  dimensions. Two of them are one mode unless there is a gap between them, in the fitted density and in the held-out
  actions (`counting`).
- Training stops where validation episodes say, and of several seeds the one that does best there is taken.

What it can miss: modes at a few steps in hundreds. The mixture's size is chosen, and its networks trained, by the
likelihood of all transitions, in which a step in 50 counts for 2 %. So the first transitions of episodes, where it is
often decided which way one goes, have mixtures of their own; later branches have not.
"""

from raymix.modes.find import find_modes
from raymix.modes.words import text

__all__ = ["find_modes", "text"]
