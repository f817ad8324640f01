"""The producer's commands, as a user runs them: output, exit codes, signals."""

from __future__ import annotations

import csv
import hashlib
import inspect
import json
import re
import signal
import urllib.request
from pathlib import Path

import pytest
import redis

import producer.commands
from producer import metrics
from producer.result_table import COLUMNS
from producer.sources import simulator
from producer.sources.simulator import SimulatedSource
from shared import keys
from shared.clock import MAX_DEADLINE_S
from shared.errors import BadSetting
from shared.schemas import Label, Outcome
from shared.server.embedded import embedded_server
from tests.kit import PATIENCE_S, wait_until
from tests.producer.command_kit import run
from tests.producer.kit import arguments, jpeg, publish, sort_result

pytestmark = pytest.mark.usefixtures("command_environment")


def test_a_simulated_camera_sends_what_a_checker_can_draw_again(client: redis.Redis) -> None:
    result = run(
        *("camera", "--line", "line-1", "--source", "simulated", "--rate", "0", "--count", "12", "--seed", "4"),
        *("--pool", "8", "--size", "64x48", "--quality", "70", "--deadline-ms", "100", "--json"),
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["line"], summary["accepted"], summary["frames"]) == ("line-1", 12, 12)
    source = SimulatedSource("line-1", seed=4, size=(64, 48), quality=70, pool=8)
    for number, job_id in enumerate(client.lrange(keys.rq_queue("live"), 0, -1)):
        assert arguments(client, job_id.decode())["frame_id"] == number
        assert client.get(keys.image(job_id.decode())) == source.frame(number).data


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["0", "1.5"])
def test_replayed_frames_are_drawn_first_and_sent_over_and_over(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, rate: str
) -> None:
    """Also at a rate so low that drawing would keep up; each one is a job of its own, validated and hashed as usual."""
    drawn: list[tuple[int, int]] = []
    draw = SimulatedSource._draw

    def noted(source: SimulatedSource, slot: int) -> simulator.SimulatedFrame:
        drawn.append((slot, client.llen(keys.rq_queue("live"))))
        return draw(source, slot)

    monkeypatch.setattr(SimulatedSource, "_draw", noted)
    result = run(
        *("camera", "--line", "line-1", "--source", "simulated", "--rate", rate, "--count", "3", "--replay", "2"),
        *("--size", "64x48"),
    )
    assert result.exit_code == 0, result.output
    assert drawn == [(0, 0), (1, 0)]
    source = SimulatedSource("line-1", size=(64, 48))
    job_ids = [job_id.decode() for job_id in client.lrange(keys.rq_queue("live"), 0, -1)]
    sent = [client.get(keys.image(job_id)) for job_id in job_ids]
    assert sent == [source.frame(number).data for number in (0, 1, 0)]
    jobs = [arguments(client, job_id) for job_id in job_ids]
    assert [job["frame_id"] for job in jobs] == [0, 1, 2]
    assert jobs[2]["sha256"] == hashlib.sha256(sent[0]).hexdigest()


@pytest.mark.parametrize(
    ("flags", "deadline_s"),
    [(("--belt-m-s", "3", "--ejector-m", "0.45"), 0.15), ((), 0.5), (("--deadline-ms", "80"), 0.08)],
)
def test_a_camera_takes_its_deadline_from_the_belt(
    client: redis.Redis, tmp_path: Path, flags: tuple[str, ...], deadline_s: float
) -> None:
    (tmp_path / "sortline.toml").write_text("[belts.l]\nbelt_m_s = 2.0\nejector_m = 1.0\n")
    result = run("camera", "--line", "l", "--source", "simulated", "--size", "64x48", "--count", "1", *flags)
    assert result.exit_code == 0, result.output
    (job_id,) = client.lrange(keys.rq_queue("live"), 0, -1)
    job = arguments(client, job_id.decode())
    assert job["deadline_at"] == pytest.approx(job["captured_at"] + deadline_s, abs=0.001)  # type: ignore[operator]


def test_the_summary_has_the_reasons_of_the_frames_that_were_dropped(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SORTLINE_QUEUE_MAX_ITEMS", "1")
    monkeypatch.setenv("SORTLINE_LINE_SHARE", "1")
    camera = ("camera", "--line", "l", "--source", "simulated", "--size", "64x48", "--rate", "0", "--count", "3")
    shown = run(*camera)
    assert re.search(r"dropped, queue full\W+2\W+items\W+2\W+rejected", shown.stdout), shown.stdout
    assert "memory" not in shown.stdout
    summary = json.loads(run(*camera, "--json").stdout)
    assert (summary["refused_full"], summary["refused"]["items"], summary["refused"]["memory"]) == (3, 3, 0)


def test_a_camera_that_waits_for_a_full_queue_sends_what_it_has(  # type: ignore[no-untyped-def]
    client: redis.Redis, start, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = ("camera", "--line", "l", "--source", "simulated", "--size", "64x48", "--rate", "0", "--count", "3")
    monkeypatch.setenv("SORTLINE_QUEUE_MAX_ITEMS", "1")
    process = start(*camera, "--when-full", "block", "--json")
    taken = []
    while len(taken) < 3:
        wait_until(lambda: client.llen(keys.rq_queue("live")) or process.poll() is not None, "the next frame comes")
        job_id = client.lpop(keys.rq_queue("live"))
        assert job_id is not None, process.communicate()
        taken.append(arguments(client, job_id.decode())["frame_id"])
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert taken == [0, 1, 2]
    summary = json.loads(stdout)
    assert (summary["accepted"], summary["refused_full"]) == (3, 0)
    assert summary["blocked_s"] > 0
    assert "waits while the queue is full (--when-full block)" in stderr


def test_the_cameras_defaults_are_the_simulators() -> None:
    """Whoever checks results against the truth (the demo) draws with the simulator's own defaults."""
    flags = {name: flag.default for name, flag in inspect.signature(producer.commands.camera).parameters.items()}
    width, height = simulator.DEFAULT_SIZE
    assert flags["size"] == f"{width}x{height}"
    assert (flags["quality"], flags["pool"]) == (simulator.DEFAULT_QUALITY, simulator.DEFAULT_POOL)


def test_the_greatest_age_is_the_longest_deadline() -> None:
    """With --too-old expire, an older frame is sent with that age as its deadline."""
    assert producer.commands._WEEK_S == MAX_DEADLINE_S


def test_a_wrong_password_is_reported_at_once_and_not_waited_out(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    with embedded_server() as url:
        with redis.Redis.from_url(url) as client:
            client.config_set("requirepass", "right")
        for wrong in (url, url.replace("//", "//:wrong@")):
            camera = ("camera", "--line", "l", "--source", "simulated", "--count", "1")
            for command in (camera, ("upload", "a.jpg"), ("results",)):
                result = run(*command, "--redis-url", wrong)
                assert isinstance(result.exception, BadSetting), command
                assert "refuses the login" in str(result.exception)


def test_a_folder_camera_sends_its_files(client: redis.Redis, tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    result = run(
        "camera", "--line", "l", "--source", str(tmp_path), "--camera", "top", "--count", "2", "--queue", "bulk"
    )
    assert result.exit_code == 0, result.output
    jobs = [arguments(client, job_id.decode()) for job_id in client.lrange(keys.rq_queue("bulk"), 0, -1)]
    assert [(job["camera"], job["frame_id"]) for job in jobs] == [("top", "a.jpg"), ("top", "b.jpg")]
    assert "accepted" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--source", "rtsp://10.0.0.1/x"], "can't be read yet"),
        (["--source", "simulated", "--size", "big"], "size = 'big'"),
        (["--source", "simulated", "--quality", "101"], "quality = 101"),
        (["--source", "simulated", "--only-new"], "--only-new applies only to a folder"),
        (["--source", "simulated", "--capture-lag-ms", "5"], "--capture-lag-ms applies only to a folder"),
        (["--source", ".", "--replay", "5"], "--replay applies only to the source 'simulated'"),
        (["--source", ".", "--delete", "--move-to", "done"], "--delete and --move-to can't both be given"),
        (["--source", ".", "--move-to", "."], "--move-to . is the folder that is sent"),
        (["--source", ".", "--stamp-pattern", "%Y"], "stamp pattern '%Y'"),
        (["--source", ".", "--too-old", "expire"], "--too-old expire needs --max-age"),
        (["--source", "simulated", "--belt-m-s", "3"], "--belt-m-s 3 needs --ejector-m too"),
        (["--source", "simulated", "--belt-m-s", "0", "--ejector-m", "1"], "--belt-m-s 0 should be at least 0.01"),
        (
            ["--source", "simulated", "--belt-m-s", "3", "--ejector-m", "0.45", "--deadline-ms", "80"],
            "--deadline-ms 80 and --belt-m-s 3 with --ejector-m 0.45 (150 ms) both give the deadline",
        ),
    ],
)
def test_settings_that_can_not_be_used_are_named(arguments: list[str], named: str) -> None:
    result = run("camera", "--line", "l", "--count", "1", *arguments)
    assert isinstance(result.exception, BadSetting)
    assert named in str(result.exception)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_camera_with_its_summary(client: redis.Redis, start, number: signal.Signals) -> None:  # type: ignore[no-untyped-def]
    process = start("camera", "--line", "l", "--source", "simulated", "--rate", "20", "--pool", "4", "--json")
    wait_until(lambda: client.llen(keys.rq_queue("live")) or process.poll() is not None, "the camera sends")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["accepted"] == client.llen(keys.rq_queue("live"))
    assert "Traceback" not in stderr


@pytest.mark.parametrize("flag", [("--rate", "inf"), ("--metrics-port", "70000"), ("--deadline-ms", "1e12")])
def test_flags_out_of_range_are_a_wrong_usage(client: redis.Redis, flag: tuple[str, str]) -> None:
    assert run("camera", "--line", "l", "--source", "simulated", "--count", "1", *flag).exit_code == 2
    assert client.dbsize() == 0


def test_results_show_the_last_ones(client: redis.Redis) -> None:
    for number in range(3):
        publish(client, sort_result(f"job-{number}", frame_id=number))
    lines = [json.loads(line) for line in run("results", "--count", "2", "--json").stdout.splitlines()]
    assert [(line["job_id"], line["outcome"]) for line in lines] == [("job-1", "sorted"), ("job-2", "sorted")]
    shown = run("results", "--line", "line-1")
    header, *lines = shown.stdout.splitlines()
    assert header.split() == ["time", "UTC", "camera", "frame", "outcome", "lane", "margin", "labels"]
    assert len(lines) == 3
    assert "line-1/camera-1" in lines[0]
    assert "-50 ms" in lines[0]
    assert "no cap 0.88, pigmented 0.75" in lines[0]
    assert "margin: the time between the result and its deadline; negative: too late." in shown.stderr


def test_results_in_csv_have_the_values_of_json(client: redis.Redis) -> None:
    labels = (Label(label="no cap", probability=0.123456), Label(label="pigmented", probability=1e-07))
    publish(client, sort_result("job-1").model_copy(update={"labels": labels}))
    (row,) = csv.DictReader(run("results", "--csv").stdout.splitlines())
    result = json.loads(run("results", "--json").stdout)
    assert (row["job_id"], row["frame_id"], row["uncertain"]) == ("job-1", "7", "false")
    assert row["labels"].split("|") == [label["label"] for label in result["labels"]]
    assert [float(text) for text in row["probability"].split("|")] == [
        label["probability"] for label in result["labels"]
    ]
    assert float(row["deadline_margin_ms"]) == result["deadline_margin_ms"]
    assert isinstance(run("results", "--csv", "--json").exception, BadSetting)


def test_csv_has_a_header_even_without_results(client: redis.Redis) -> None:
    shown = run("results", "--csv")
    assert (shown.stdout, shown.stderr) == (",".join(COLUMNS) + "\n", "no results yet.\n")
    assert run("results").stdout == run("results", "--json").stdout == ""


def test_results_of_some_jobs_outcomes_and_lanes(client: redis.Redis) -> None:
    """The latest ones that match, no matter how many others are between them."""
    publish(client, sort_result("job-1", Outcome.LATE))
    publish(client, sort_result("job-2").model_copy(update={"lane": "manual"}))
    for number in range(3, 30):
        publish(client, sort_result(f"job-{number}", frame_id=number))

    def jobs(*flags: str) -> list[str]:
        shown = run("results", "--json", "--count", "2", *flags)
        assert shown.exit_code == 0, shown.output
        return [json.loads(line)["job_id"] for line in shown.stdout.splitlines()]

    assert jobs("--outcome", "late") == ["job-1"]
    assert jobs("--lane", "manual") == ["job-2"]
    assert jobs("--job", "job-9", "--job", "job-4") == ["job-4", "job-9"]
    assert jobs("--outcome", "sorted", "--lane", "reject") == ["job-28", "job-29"]
    none = run("results", "--outcome", "failed", "--lane", "manual")
    assert (none.stdout, none.stderr) == ("", "no results with outcome failed and lane manual.\n")
    header = run("results", "--csv", "--outcome", "failed").stdout
    assert header.startswith("job_id,line,")
    assert header.count("\n") == 1
    for outcome in ("lat", "LATE"):
        refusal = run("results", "--outcome", outcome).exception
        assert isinstance(refusal, BadSetting)
        assert str(refusal) == f"--outcome {outcome!r} is not an outcome: did you mean late?"


def test_a_line_that_cannot_exist_has_no_results(client: redis.Redis) -> None:
    """It used to be taken for a line that has no results yet."""
    refusal = run("results", "--line", "bad name").exception
    assert isinstance(refusal, BadSetting)
    assert "line = 'bad name'" in str(refusal)


def test_results_follow_until_ctrl_c(client: redis.Redis, start) -> None:  # type: ignore[no-untyped-def]
    publish(client, sort_result("job-0"))
    process = start("results", "--follow", "--json")
    assert json.loads(process.stdout.readline())["job_id"] == "job-0"
    publish(client, sort_result("job-1", line="another"))
    assert json.loads(process.stdout.readline())["job_id"] == "job-1"
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (0, "", "")


def test_following_a_server_that_is_away_says_so_and_ends_at_ctrl_c(start) -> None:  # type: ignore[no-untyped-def]
    process = start("results", "--follow", "--redis-url", "redis://127.0.0.1:1/0")
    assert "Waiting." in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (0, "", "")


def test_the_metrics_are_served(client: redis.Redis) -> None:
    server = metrics.serve("127.0.0.1", 0)
    run("camera", "--line", "metered", "--source", "simulated", "--rate", "0", "--count", "3", "--pool", "1")
    with urllib.request.urlopen(server.url, timeout=10) as page:
        text = page.read().decode()
    assert 'sortline_submitted_total{line="metered",outcome="accepted"} 3.0' in text
    assert 'sortline_submitted_total{line="metered",outcome="refused_full"} 0.0' in text
    with pytest.raises(BadSetting, match="--metrics-port"):
        metrics.serve("127.0.0.1", server.port)
    server.stop()


def test_every_command_helps_with_an_example() -> None:
    for command in ("camera", "upload", "results"):
        assert f"Example: sortline {command}" in " ".join(run(command, "--help").stdout.split())
