"""Language models: transformers ones, explicit tables, and how they are loaded and run.

Read `causal.py` first (with `causal_drawing.py` and `causal_scoring.py`), then
`execution/running_model.py`; `tabular.py` is the model of which everything is exact, and `text/` is
between texts and tokens. It imports `core`. Inside, `execution` runs `decoders` and `passes`, which
use `cpu` and `weights`; never the other way.
"""
