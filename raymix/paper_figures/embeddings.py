"""Trajectory embeddings and codes at the end of training, side by side (LBRAC-v's figures 5 and 6)."""

from __future__ import annotations

from raymix import snapshots
from raymix.paper_figures.material import Lacking, Material
from raymix.report.embeddings import Panel, embedding_figure
from raymix.report.tables import shown, text
from raymix.snapshots import Snapshot
from raymix.types import return_percentiles

_MOST = 8


def compared_embeddings(material: Material, path: str) -> None:
    """Write a PNG with a panel per configuration of lbrac_v, the first seed's last snapshot: several data sets with
    K = 1 are figure 5, several K on one data set are figure 6. Of more than eight configurations the best are shown."""
    configurations = material.of("lbrac_v")
    if len(configurations) > _MOST:
        kept = {one.config_id for one in material.ranked(configurations)[:_MOST]}
        configurations = [one for one in configurations if one.config_id in kept]
    last = material.phases["lbrac_v"][-1][0]
    newest: dict[str, Snapshot] = {}
    for folder in dict.fromkeys(material.folder(one) for one in configurations):
        for each in snapshots.find(folder):
            known = newest.get(each.config_id)
            if each.phase == last and (known is None or (-each.seed, each.step) > (-known.seed, known.step)):
                newest[each.config_id] = each
    panels = []
    several = len({one.dataset for one in configurations}) > 1
    for one in configurations:
        if one.config_id not in newest:
            continue
        percentiles = return_percentiles(material.dataset(one).columns.episode_returns())
        others = [name for name in material.swept if name in one.applied and name != "num_codes"]
        words = [f"K = {one.config['num_codes']}", *(f"{name}={text(shown(one.config[name]))}" for name in others)]
        title = "\n".join([*([one.dataset] if several else []), ", ".join(words)])
        panels.append(Panel(title, newest[one.config_id].read(), percentiles))
    if not panels:
        raise Lacking(f"no configuration of lbrac_v has reached its phase {last}; resume the run")
    first = configurations[0].dataset
    title = "lbrac_v after training" + ("" if several else f" on {first}")
    embedding_figure(panels, title, path, with_policy=True, one_training=False)
