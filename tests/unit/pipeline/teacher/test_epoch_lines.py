from __future__ import annotations

from raydfkd.pipeline.teacher.epoch_lines import LINE_PERIOD_S, EpochLines


def test_a_line_a_period_and_one_for_the_last_epoch() -> None:
    now, lines = [0.0], []
    take = EpochLines(lines.append, clock=lambda: now[0])
    for epoch in range(1, 11):
        record = {"epoch": epoch, "epochs": 10, "loss": 0.5, "train_accuracy": 0.9, "lr": 0.1, "images_per_s": 1000.0}
        take({**record, "elapsed_s": now[0]})
        now[0] += 0.4 * LINE_PERIOD_S
    assert [int(line.split("/")[0].removeprefix("epoch ")) for line in lines] == [1, 4, 7, 10]
    # 2 s a period of 5 s: three epochs took 6 s, so the six that follow the fourth take 9 s.
    assert "loss 0.5000  training accuracy 90.0%" in lines[1]
    assert lines[1].endswith("9 s left")
