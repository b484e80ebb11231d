"""How the voices of the packages sound, so that they need not speak before the first clone.

Made by `Likenesses`; a test compares them with what the voices say.
"""

from __future__ import annotations

from model_procs.engines.kokoro.voices import Likeness

PUBLISHED = {
    "jf_alpha": Likeness(
        octaves=8.027,
        timbre=(9.89, 1.45, 0.73, -3.63, 0.7, -3.05, -1.51, -1.8, 0.23, -2.15, -0.37, -1.43),
    ),
    "jf_gongitsune": Likeness(
        octaves=7.907,
        timbre=(12.92, 5.35, -0.16, -0.53, 0.2, 0.98, -0.96, -0.78, -0.53, -1.67, -0.29, -0.65),
    ),
    "jf_nezumi": Likeness(
        octaves=7.816,
        timbre=(14.41, 2.64, -0.19, -1.26, 0.85, 0.7, -0.93, -0.2, -0.15, -0.88, -0.32, -0.03),
    ),
    "jf_tebukuro": Likeness(
        octaves=8.256,
        timbre=(9.97, 0.05, -1.93, -2.69, -0.33, -1.7, -1.54, -1.72, -2.09, -2.62, -1.35, -1.26),
    ),
    "jm_kumo": Likeness(
        octaves=6.381,
        timbre=(12.83, 4.52, 1.89, 0.03, -1.0, 1.36, 0.31, -1.66, 0.93, -0.38, -0.4, 0.79),
    ),
}
