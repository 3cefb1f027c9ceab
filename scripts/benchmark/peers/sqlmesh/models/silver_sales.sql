MODEL (
  name sales.silver_sales,
  kind INCREMENTAL_BY_TIME_RANGE (
    time_column timestamp
  ),
  grain sale_id,
  audits (
    not_null(
      columns := (sale_id, timestamp, customer_id, product_id, quantity, unit_price, total_amount),
      blocking := false
    )
  )
);

WITH corrected AS (
  SELECT
    * REPLACE (
      CASE
        WHEN quantity * unit_price IS NULL THEN total_amount
        WHEN ABS(total_amount - quantity * unit_price) <= 0.01001 THEN total_amount
        ELSE ROUND(quantity * unit_price, 2)
      END AS total_amount
    )
  FROM READ_CSV('landing/*.csv')
)
SELECT
  sale_id::TEXT,
  timestamp::TIMESTAMP,
  customer_id::TEXT,
  product_id::TEXT,
  product_name::TEXT,
  category::TEXT,
  quantity::BIGINT,
  unit_price::DOUBLE,
  total_amount::DOUBLE,
  payment_method::TEXT,
  status::TEXT,
  (
    sale_id IS NOT NULL
    AND timestamp IS NOT NULL
    AND customer_id IS NOT NULL
    AND product_id IS NOT NULL
    AND quantity IS NOT NULL
    AND unit_price IS NOT NULL
    AND total_amount IS NOT NULL
  ) AS is_valid
FROM corrected
WHERE
  timestamp BETWEEN @start_ts AND @end_ts
