"""One Spark application for these tests: two executors, processes of their own, as on a cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders.spark import session

FAST_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


def needs_spark() -> None:
    """Skip a test where Spark cannot run."""
    pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'perslm[spark]'")
    if shutil.which("java") is None:
        pytest.skip("there is no Java, which Spark needs: install version 17")


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """A session on ``local-cluster[2,1,1024]``, with speculation; Java that starts fast."""
    needs_spark()
    settings = (
        "spark.speculation=true",
        "spark.speculation.interval=100ms",
        "spark.task.maxFailures=8",  # on a slow machine tasks wait long for a store that is held
        "spark.executor.memory=512m",
        f"spark.deploy.appIdPattern=app-%s-%04d-{os.getpid()}",  # executors work in a folder of it
        f"spark.executor.extraJavaOptions={FAST_JAVA}",
        "spark.sql.codegen.wholeStage=false",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("SPARK_SUBMIT_OPTS", FAST_JAVA)
        with session("local-cluster[2,1,1024]", settings) as opened:
            work = executors_work(opened)
            yield opened
        shutil.rmtree(work)


@pytest.fixture
def executor_logs(spark: Any) -> list[Path]:
    """What the executors have logged so far."""
    return sorted(executors_work(spark).rglob("std*"))


def executors_work(spark: Any) -> Path:
    import pyspark

    home = os.environ.get("SPARK_HOME") or Path(pyspark.__file__).parent
    return Path(home, "work", spark.sparkContext.applicationId)
