"""Sales from CSV to silver and gold in plain pandas, as such pipelines are commonly written.

Does the same work as bare_duckdb.py, for sales only.

usage: plain_pandas.py OUTPUT STAGING, where STAGING/sales/ holds CSV files
"""

import glob
import os
import sys

import pandas as pd

output, files = sys.argv[1], sorted(glob.glob(f"{sys.argv[2]}/sales/*.csv"))
rows = pd.concat([pd.read_csv(file, dtype=str) for file in files], ignore_index=True)
rows["timestamp"] = pd.to_datetime(rows["timestamp"], format="ISO8601", errors="coerce")
for column in ("quantity", "unit_price", "total_amount"):
    rows[column] = pd.to_numeric(rows[column], errors="coerce")
expected = (rows["quantity"] * rows["unit_price"]).round(2)
wrong = expected.notna() & ~((rows["total_amount"] - expected).abs() <= 0.01001)
rows["total_amount"] = rows["total_amount"].mask(wrong, expected)
rows["date"] = rows["timestamp"].dt.date
keyed = rows["sale_id"].notna()
latest = rows[keyed].sort_values("timestamp", kind="stable").drop_duplicates(["date", "sale_id"], keep="last")
rows = pd.concat([latest, rows[~keyed]])
rules = ["sale_id", "timestamp", "customer_id", "product_id", "quantity", "unit_price", "total_amount"]
errors = pd.Series("", index=rows.index)
for column in rules:
    missing = rows[column].isna()
    errors = errors.mask(missing, errors + f"NULL:{column}; ")
rows["validation_errors"] = errors.str.removesuffix("; ")
rows["is_valid"] = errors == ""
os.makedirs(output)
for date, day in rows.groupby("date", dropna=False):
    os.makedirs(f"{output}/silver/date={date}")
    day.drop(columns="date").to_parquet(f"{output}/silver/date={date}/sales.parquet", index=False)
valid = rows[rows["is_valid"]]
refunded = valid["total_amount"].where(valid["status"].isin(["refunded", "cancelled"]), 0)
for table, grain, more in (
    ("daily_sales_summary", ["date"], {"customers": ("customer_id", "nunique"), "refunded": ("refunded", "sum")}),
    ("category_sales_summary", ["date", "category"], {"price": ("unit_price", "mean")}),
    ("payment_method_summary", ["date", "payment_method"], {}),
):
    groups = valid.assign(refunded=refunded).groupby(grain, dropna=False)
    summary = groups.agg(amount=("total_amount", "sum"), orders=("total_amount", "size"), **more).round(2).reset_index()
    summary.to_parquet(f"{output}/{table}.parquet", index=False)
