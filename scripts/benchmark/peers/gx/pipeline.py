"""Sales with pandas, validated by a checkpoint of Great Expectations."""

from pathlib import Path

import great_expectations as gx
import pandas as pd

REQUIRED = ["sale_id", "timestamp", "customer_id", "product_id", "quantity", "unit_price", "total_amount"]

files = sorted(Path("landing").glob("*.csv"))
sales = pd.concat(
    [pd.read_csv(file, parse_dates=["timestamp"], date_format="ISO8601") for file in files], ignore_index=True
)
expected = (sales["quantity"] * sales["unit_price"]).round(2)
wrong = expected.notna() & ~((sales["total_amount"] - expected).abs() <= 0.01001)
sales["total_amount"] = sales["total_amount"].mask(wrong, expected)

context = gx.get_context(mode="file")
batch_definition = (
    context.data_sources.add_or_update_pandas("sales")
    .add_dataframe_asset("sales")
    .add_batch_definition_whole_dataframe("all")
)
rules = [gx.expectations.ExpectColumnValuesToNotBeNull(column=column) for column in REQUIRED]
suite = context.suites.add_or_update(gx.ExpectationSuite("sales", expectations=rules))
definition = context.validation_definitions.add_or_update(
    gx.ValidationDefinition(name="sales", data=batch_definition, suite=suite)
)
checkpoint = context.checkpoints.add_or_update(
    gx.Checkpoint(
        name="sales",
        validation_definitions=[definition],
        actions=[gx.checkpoint.UpdateDataDocsAction(name="update_data_docs")],
        result_format="COMPLETE",
    )
)
outcome = checkpoint.run(batch_parameters={"dataframe": sales})
(validation,) = outcome.run_results.values()
invalid = set()
for result in validation.results:
    invalid.update(result.result["unexpected_index_list"])
sales["is_valid"] = ~sales.index.isin(invalid)

valid = sales[sales["is_valid"]]
daily = valid.groupby(valid["timestamp"].dt.date.rename("date"), as_index=False).agg(
    total_revenue=("total_amount", "sum"),
    order_count=("sale_id", "size"),
    unique_customers=("customer_id", "nunique"),
)
Path("lake").mkdir(exist_ok=True)
sales.to_parquet("lake/silver.parquet", index=False)
daily.to_parquet("lake/daily_sales_summary.parquet", index=False)
