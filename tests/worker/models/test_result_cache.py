"""The result cache: which answers are cached, for which jobs, and how many."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import redis

from model_store.registry.canary import Canary
from shared.images.crop_regions import Region
from shared.schemas import ImageJob
from shared.settings import Settings
from tests.worker import kit, step_inputs
from tests.worker.kit import ToneEngine, frame, picture
from worker.models.model import Model
from worker.models.result_cache import ResultCache
from worker.models.routing import ActiveCanary, Route
from worker.observe.metrics import Metrics

PROBABILITIES = [0.9, 0.1, 0.0]


def cache(max_items: int = 10) -> ResultCache:
    return ResultCache(max_items, queues=["bulk"], metrics=Metrics())


def upload(**fields: object) -> ImageJob:
    return step_inputs.image_job(queue="bulk", **fields)


def looking(model: Model, **regions: Region) -> Model:
    return replace(model, manifest=model.manifest.model_copy(update={"regions": regions}))


def test_the_same_file_to_the_same_model_is_known() -> None:
    known, route = cache(), Route(kit.model())
    key = known.key(upload(job_id="a"), b"file", route)
    assert key is not None and known.get(key) is None
    known.add(key, PROBABILITIES)
    again = known.key(upload(job_id="b", line="l2", camera="c2"), b"file", Route(kit.model()))
    assert again is not None and known.get(again) == PROBABILITIES


@pytest.mark.parametrize(("image", "route"), [(b"another", Route(kit.model())), (b"file", Route(kit.model(version=4)))])
def test_another_file_or_version_is_not_known(image: bytes, route: Route) -> None:
    known = cache()
    first = known.key(upload(), b"file", Route(kit.model()))
    assert first is not None
    known.add(first, PROBABILITIES)
    key = known.key(upload(), image, route)
    assert key is not None and known.get(key) is None


def test_the_camera_matters_if_the_model_crops_a_region() -> None:
    known, route = cache(), Route(looking(kit.model(), c1=Region(0, 0, 0.5, 1)))
    assert known.key(upload(camera="c1"), b"file", route) != known.key(upload(camera="c2"), b"file", route)


def test_which_images_are_not_cached() -> None:
    known, model = cache(), kit.model()
    canary = ActiveCanary(Canary(version=4, share=1.0), model)
    assert known.key(step_inputs.image_job(queue="live"), b"file", Route(model)) is None
    assert known.key(upload(), None, Route(model)) is None
    assert known.key(upload(), b"file", Route(model, other=model, canary=canary)) is None
    assert cache(0).key(upload(), b"file", Route(model)) is None


def test_the_least_recently_used_answer_is_forgotten() -> None:
    known, route = cache(2), Route(kit.model())
    a, b, c = (known.key(upload(), data, route) for data in (b"a", b"b", b"c"))
    assert a is not None and b is not None and c is not None
    known.add(a, PROBABILITIES)
    known.add(b, PROBABILITIES)
    assert known.get(a) == PROBABILITIES
    known.add(c, PROBABILITIES)
    assert len(known) == 2
    assert (known.get(a), known.get(b), known.get(c)) == (PROBABILITIES, None, PROBABILITIES)


def test_the_model_sees_each_upload_once(settings: Settings, client: redis.Redis) -> None:
    images = [picture(tone) for tone in (10, 200)]
    engine = ToneEngine()
    components = kit.pipeline_components(settings, engine)
    for _ in range(2):  # the first run fills the cache, the second uses it
        job_ids = kit.submit(settings, *[frame(data, queue="bulk") for data in images])
        run = kit.pipeline(settings, components, burst=True)
        run.start()
        kit.finish(run)
    assert sum(engine.sizes) == 2
    found = {result.job_id: result for result in kit.stream(client)}
    first = {result.labels for job_id, result in found.items() if job_id not in job_ids}
    assert len(first) == 2 and {found[job_id].labels for job_id in job_ids} == first
    assert {found[job_id].timings_ms.infer for job_id in job_ids} == {None}
    sample = components.metrics.registry.get_sample_value
    assert sample("sortline_result_cache_total", {"result": "hit"}) == 2
    assert sample("sortline_result_cache_total", {"result": "miss"}) == 2


def test_a_forged_digest_neither_enters_the_cache_nor_gets_an_answer_from_it(
    settings: Settings, client: redis.Redis
) -> None:
    """A job that claims the digest of another file gets no answer: not from the model, not from the cache."""
    good, other = picture(10), picture(200)
    components = kit.pipeline_components(settings, ToneEngine())
    for _ in range(2):  # the first forged job comes before the good file is known, the second one after
        (forged,) = kit.submit(settings, frame(other, queue="bulk"))
        kit.forge(client, forged, sha256=hashlib.sha256(good).hexdigest())
        (honest,) = kit.submit(settings, frame(good, queue="bulk"))
        run = kit.pipeline(settings, components, burst=True)
        run.start()
        kit.finish(run)
        found = {result.job_id: result for result in kit.stream(client)}
        assert (found[forged].outcome, found[forged].labels) == ("rejected", ())
        assert [label.label for label in found[honest].labels] == ["good"]
        assert len(components.cache) == 1


def test_a_failure_is_not_cached(settings: Settings, client: redis.Redis) -> None:
    components = kit.pipeline_components(settings, ToneEngine(kit.always_fails))
    kit.submit(settings, frame(queue="bulk"))
    run = kit.pipeline(settings, components, burst=True)
    run.start()
    kit.finish(run)
    assert set(kit.outcomes(client).values()) == {"failed"}
    assert len(components.cache) == 0
