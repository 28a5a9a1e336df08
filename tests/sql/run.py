"""Runs a script of SQL in DuckDB. Paths in the script are relative to the directory in which this is started.

    python3 run.py expected.sql
"""

import sys

import duckdb

with open(sys.argv[1], encoding="utf-8") as script:
    duckdb.connect().execute(script.read())
