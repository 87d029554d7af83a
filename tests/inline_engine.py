"""An engine that does runs in this process, which takes less time than to start processes."""

from __future__ import annotations

from convnext_ablation.study.engine import drive, how_it_ended
from convnext_ablation.study.run import main
from convnext_ablation.study.status import StudyProgress
from convnext_ablation.study.store import read_study


class Inline:
    takes_dependencies, leave = False, ""

    def __init__(self):
        self.tasks, self.done = [], []

    def submit(self, tasks):
        self.tasks += tasks

    def wait(self, seconds):
        task = self.tasks.pop(0)
        self.done.append(task.name)
        return [(task.name, how_it_ended(main([str(task.folder)])))]

    def cancel(self):
        self.tasks = []


def do_all(folder):
    """Does all runs of a study; their states."""
    study = read_study(folder)
    return drive(study, folder, Inline(), StudyProgress(study, quiet=True))
