"""Sales with polars, validated by pandera."""

from pathlib import Path

import pandera.polars as pa
import polars as pl


class Sale(pa.DataFrameModel):
    sale_id: str
    timestamp: pl.Datetime
    customer_id: str
    product_id: str
    quantity: int
    unit_price: float
    total_amount: float

    class Config:
        drop_invalid_rows = True


sales = pl.read_csv("landing/*.csv", try_parse_dates=True)
expected = (pl.col("quantity") * pl.col("unit_price")).round(2)
wrong = expected.is_not_null() & ((pl.col("total_amount") - expected).abs() > 0.01001).fill_null(True)
sales = sales.with_columns(total_amount=pl.when(wrong).then(expected).otherwise("total_amount")).with_row_index("row")

valid = Sale.validate(sales, lazy=True)
quarantine = sales.join(valid, on="row", how="anti")
daily = valid.group_by(date=pl.col("timestamp").dt.date()).agg(
    total_revenue=pl.col("total_amount").sum(),
    order_count=pl.len(),
    unique_customers=pl.col("customer_id").n_unique(),
)

Path("lake").mkdir(exist_ok=True)
valid.write_parquet("lake/silver.parquet")
quarantine.write_parquet("lake/quarantine.parquet")
daily.write_parquet("lake/daily_sales_summary.parquet")
