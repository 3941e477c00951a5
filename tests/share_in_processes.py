"""Run as a script, in each of some processes: the stages that share their work, in the folder of a project.

python share_in_processes.py FOLDER [dying]: with the word, the second process is gone before it judges a second unit.
The second one leaves every wait late, so that the first has then replaced and cleared away all that it will.
"""

import os
import sys
import time
from pathlib import Path

import ppd.diffusion.sampling.run
import ppd.evaluation.judge
import ppd.vlm.refresh
from ppd import stages
from ppd.launch import end_with_parent
from ppd.layout import Layout
from ppd.parts import Part, this_part
from ppd.settings import load_settings


def main() -> None:
    end_with_parent()
    os.chdir(sys.argv[1])
    # Small units, of the same batches, so that there is something to share.
    ppd.vlm.refresh.UNIT = ppd.diffusion.sampling.run.BATCHES_PER_UNIT = ppd.evaluation.judge.USERS_PER_UNIT = 1
    if this_part().rank == 1:
        wait = Part.wait_for_all

        def late(part: Part) -> None:
            wait(part)
            time.sleep(0.3)

        Part.wait_for_all = late  # type: ignore[method-assign]
    if sys.argv[2:] == ["dying"] and this_part().rank == 1:
        judge, done = ppd.evaluation.judge.judge_comparisons, []

        def dying(*asked: object) -> object:
            if done:
                os._exit(9)
            done.append(asked)
            return judge(*asked)  # type: ignore[arg-type]

        ppd.evaluation.judge.judge_comparisons = dying  # type: ignore[assignment]
    settings, layout = load_settings(Path("params.yaml")), Layout()
    stages.encode(settings, layout)
    stages.embed(settings, layout, "s-00")
    stages.sample(settings, layout, "ppd")
    stages.judge(settings, layout)
    stages.report(settings, layout)


if __name__ == "__main__":
    main()
