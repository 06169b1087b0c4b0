"""Spark itself: an application of our own, quiet, and what its failures mean."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from builders.routing import Progress
from perslm.errors import (
    ArgumentError,
    MissingExtraError,
    PerslmError,
    SourceError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_LOOK_SECONDS: Final = 0.5
_LOGGING: Final = Path(__file__).with_name("log4j2.properties")
_STAYS: Final = "what is published stays, and the same command goes on"
_DAMAGED: Final = re.compile(r"\[FAILED_READ_FILE[^\]]*\].*?file (\S+?)\.?\s")


class SparkError(PerslmError):
    """Spark did not start, or gave up; ``problem`` is the name that Spark has for it."""

    def __init__(self, problem: str, remedy: str = "its logs say more") -> None:
        self.problem = problem
        super().__init__(f"Spark gave up ({problem}): {remedy}; {_STAYS}")


@contextmanager
def session(master: str | None, conf: Iterable[str] = ()) -> Iterator[SparkSession]:
    """Run a Spark application; ``conf`` holds settings of Spark as ``NAME=VALUE``.

    What neither says is as Spark's own configuration has it. Raises ArgumentError for a setting
    without a value, if there is no Java, or if this process has a session, which is then the one to
    build with; MissingExtraError without pyspark; SparkError if Spark does not start.
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise MissingExtraError("the Spark runner", "spark") from error
    if not _has_java():
        raise ArgumentError("Spark needs Java 17: install it, or set JAVA_HOME to where it is")
    if SparkSession.getActiveSession() is not None:
        raise ArgumentError("Spark runs in this process: give its session to builders.spark.build")
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.io.encryption.enabled": "true",  # what people wrote lies on disks meanwhile
        "spark.driver.maxResultSize": "0",  # a line for each user comes back
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={_LOGGING.as_uri()}",
    }
    if master is not None:
        settings["spark.master"] = master
        if master.startswith("local"):
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the one with perslm
    for pair in conf:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise ArgumentError("a setting of Spark is NAME=VALUE")
        settings[name] = value
    builder = SparkSession.builder.appName("perslm build")
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        spark = builder.getOrCreate()
    except (PySparkException, *_java_errors()) as error:
        raise SparkError(_name(error)) from error
    try:
        yield spark
    finally:
        spark.stop()


def collected(frame: DataFrame, name: str, tasks: int, progress: Progress) -> list[Any]:
    """Return the rows of ``frame``, which take some ``tasks`` of Spark; ``progress`` hears of each.

    A killed executor's tasks may be more, and are not counted twice.
    """
    tracker = frame.sparkSession.sparkContext.statusTracker()
    stages: set[int] = set()
    shown = 0
    progress.stage(name, tasks)
    with ThreadPoolExecutor(1) as pool:
        rows = pool.submit(frame.collect)
        while not wait([rows], _LOOK_SECONDS).done:
            stages.update(tracker.getActiveStageIds())
            known = (tracker.getStageInfo(stage) for stage in stages)
            done = min(tasks, sum(info.numCompletedTasks for info in known if info is not None))
            progress.advance(max(done - shown, 0))
            shown = max(done, shown)
    found: list[Any] = rows.result()
    progress.advance(tasks - shown)
    return found


@contextmanager
def explained() -> Iterator[None]:
    """Turn what Spark raises into errors of perslm."""
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, *_java_errors()) as error:
        raise _explained(error) from error


def _explained(error: Exception) -> PerslmError:
    text = str(error)
    if StoreUnavailableError.__name__ in text:
        return StoreUnavailableError(
            "the tasks of the build cannot reach the store, or it stopped answering: check that "
            f"every machine of the cluster reaches it; {_STAYS}"
        )
    if "No module named" in text:
        return SparkError(
            "ModuleNotFoundError",
            "every machine needs a Python with perslm[builders,spark]: PYSPARK_PYTHON names it",
        )
    if "PARQUET_TYPE_ILLEGAL" in text:
        return SourceError(
            "a Parquet source",
            "has a column of a type that Spark does not read",
            "write it again with the columns of mail alone",
        )
    if damaged := _DAMAGED.search(text):
        return SourceError(damaged[1], "is damaged, or went away", f"replace it; {_STAYS}")
    return SparkError(_name(error))


def _name(error: Exception) -> str:
    from py4j.protocol import Py4JJavaError

    if isinstance(error, Py4JJavaError):
        return str(error.java_exception.getClass().getSimpleName())
    condition = getattr(error, "getCondition", lambda: None)()
    return condition or type(error).__name__


def _java_errors() -> tuple[type[Exception], ...]:
    from py4j.protocol import Py4JError

    return (Py4JError,)


def _has_java() -> bool:
    home = os.environ.get("JAVA_HOME")
    if home:
        return Path(home, "bin", "java").exists()
    return shutil.which("java") is not None
