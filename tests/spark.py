"""Spark on this machine, for tests."""

from data_prep.config import SparkConfig

LOCAL = SparkConfig(
    master="local[2]",
    settings={
        **{"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"},
        "spark.sql.shuffle.partitions": "2",  # of a grouping; by default 200 tasks for a few rows
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",  # compiling well takes longer than these logs
    },
)
