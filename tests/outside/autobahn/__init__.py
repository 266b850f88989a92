"""Autobahn|Testsuite against `/echo`: what it found is compared with `expected.json`.

`python -m autobahn --wstest PATH --reports DIRECTORY` in `tests/outside` runs it (`__main__.py`); `results.py` judges.
Nothing here imports the suite, which is Python 2.7 and has an environment of its own: see `scripts/test`.
"""
