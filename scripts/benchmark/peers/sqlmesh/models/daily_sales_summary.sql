MODEL (
  name sales.daily_sales_summary,
  kind FULL,
  grain date,
  audits (
    unique_values(columns := (date)),
    not_null(columns := (date))
  )
);

SELECT
  timestamp::DATE AS date,
  SUM(total_amount) AS total_revenue,
  COUNT(*) AS order_count,
  COUNT(DISTINCT customer_id) AS unique_customers
FROM sales.silver_sales
WHERE
  is_valid
GROUP BY
  1
