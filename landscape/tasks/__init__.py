"""Tasks: `build(experiment)` gives what the model's outputs mean."""

from landscape.tasks import classification as _classification  # noqa: F401  (register themselves)
from landscape.tasks import language as _language  # noqa: F401
from landscape.tasks import regression as _regression  # noqa: F401
from landscape.tasks.task import Task, build, tasks
from landscape.tasks.task_loss import TaskLoss

__all__ = ["Task", "TaskLoss", "build", "tasks"]
