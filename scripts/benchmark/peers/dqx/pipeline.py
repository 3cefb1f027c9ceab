"""Sales with PySpark, split by the checks of DQX into valid and quarantined rows."""

from unittest.mock import MagicMock

from databricks.labs.dqx.config import FileChecksStorageConfig
from databricks.labs.dqx.engine import DQEngine
from databricks.sdk import WorkspaceClient
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

SCHEMA = """
    sale_id string, timestamp timestamp, customer_id string, product_id string, product_name string, category string,
    quantity int, unit_price double, total_amount double, payment_method string, status string
"""

spark = SparkSession.builder.appName("sales").getOrCreate()
engine = DQEngine(MagicMock(spec=WorkspaceClient), spark)  # as its documentation says for runs outside Databricks

expected = f.round(f.col("quantity") * f.col("unit_price"), 2)
wrong = expected.isNotNull() & ~f.coalesce(f.abs(f.col("total_amount") - expected) <= 0.01001, f.lit(False))
sales = spark.read.csv("landing", schema=SCHEMA, header=True).withColumn(
    "total_amount", f.when(wrong, expected).otherwise(f.col("total_amount"))
)
checks = engine.load_checks(FileChecksStorageConfig(location="checks.yml"))
valid, quarantine = engine.apply_checks_by_metadata_and_split(sales, checks)
valid.write.mode("overwrite").parquet("lake/silver")
quarantine.write.mode("overwrite").parquet("lake/quarantine")
daily = (
    spark.read.parquet("lake/silver")
    .groupBy(f.to_date("timestamp").alias("date"))
    .agg(
        f.sum("total_amount").alias("total_revenue"),
        f.count("*").alias("order_count"),
        f.countDistinct("customer_id").alias("unique_customers"),
    )
)
daily.write.mode("overwrite").parquet("lake/daily_sales_summary")
