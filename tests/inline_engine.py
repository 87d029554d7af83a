"""An engine that does runs in this process, which takes less time than to start processes."""

from convnext_ablation.study.engine import drive, how_it_ended
from convnext_ablation.study.run import main
from convnext_ablation.study.status import StudyProgress
from convnext_ablation.study.store import read_phases


class Inline:
    leave = ""

    def __init__(self):
        self.runs, self.done = [], []

    def submit(self, runs):
        self.runs = [run for run in runs if not run.after][:1]
        return self.runs

    def wait(self, seconds):
        (run,) = self.runs
        self.done.append(run.task)
        return [(run.task, how_it_ended(main([str(run.folder)])))]

    def cancel(self):
        pass


def do_all(folder):
    """Does all runs of a study; their states."""
    return drive(read_phases(folder), folder, Inline(), StudyProgress(quiet=True))
