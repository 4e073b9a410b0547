"""Figures of the papers from runs that are over: their ledgers, and where a figure needs networks, their checkpoints.

    scores.png                 score against what was swept                               LOM 3
    curves.png                 score and critic loss over training                        DMPO 3, LAPO 4 and 5
    lbrac_v-fig4.png           relative return against how many policies made the data
    lbrac_v-fig5-6.png         trajectory embeddings and codes at the end, by data set and K
    embeddings-*.png           the same over training (`raymix.report.embeddings`)
    actions-DATASET.png        what models and policies do at one state                   LOM 2 and 4, LAPO 2
    td3_rkl-fig4.png           histogram of the weights lambda(s), by source of the data
    dmpo-fig4.png              histogram of Bellman errors
    dmpo-fig5.png              values of the sub-policies along an episode

What the papers' toys show is rebuilt by `raymix reproduce`.
"""
