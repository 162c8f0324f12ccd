"""Plans: what a compiled step says, the largest batch, and rooflines by hand."""

from __future__ import annotations

import math

import jax
import pytest

from gssl_jax.errors import UserError
from gssl_jax.runs import chips, planning
from gssl_jax.runs.chips import Chip, Target
from gssl_jax.runs.planning import Compiled, Moved, Plan
from gssl_jax.runs.stage import create_state, gather, shape_batch
from gssl_jax.training.mesh import make_mesh
from tests.runs.recipes import recipe

CHIP = Chip("made up", flops=100e12, memory=1000, bandwidth=1e12, links=50e9, per_host=4, threads=96)
TARGET = Target("made:2x4", CHIP, [None] * 8)
PROGRAM = """
  %a = f32[128,4]{1,0} all-reduce(f32[128,4]{1,0} %x), replica_groups={{0,1}}, to_apply=%sum
  %b = (bf16[8]{0}, /*index=1*/f32[]) all-reduce(bf16[8]{0} %y, f32[] %z), to_apply=%sum
  %s = (f32[2,16]{1,0}, f32[8,16]{1,0}) all-gather-start(f32[2,16]{1,0} %p), dimensions={0}
  %d = f32[8,16]{1,0} all-gather-done(%s)
  %n = f32[3]{0} add(%i, %j)
"""


def step(batch=64, needed=600, fits=True, **changes):
    values = dict(memory={}, flops=2e12, touched=5e9, moved={"all-reduce": Moved(2, 10**9)})
    return Compiled(batch, fits, needed, **(values | changes))


def plan(**changes):
    values = dict(target=TARGET, step=step(), largest=None, checkpoint=0, steps=10, views=2, images=64)
    return Plan(**(values | changes))


def test_collectives_are_counted_by_kind_and_size_of_their_results():
    """128 x 4 floats and 8 bfloat16 and one float; a gather that begins and ends apart is one, of 8 x 16 floats."""
    found = dict(planning.collectives(PROGRAM))
    assert set(found) == {"all-reduce", "all-gather"}
    assert found["all-reduce"] == Moved(2, 128 * 4 * 4 + 8 * 2 + 4)
    assert found["all-gather"].times == 1
    assert 8 * 16 * 4 / 2 <= found["all-gather"].bytes <= 8 * 16 * 4


@pytest.mark.parametrize(
    ("said", "size"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (19.67G) exceeds available HBM (15.75G). HLO module: jit_one.",
            int(19.67 * 2**30),
        ),
        ("temporaries (512.5M) exceeds available HBM (15.75G)", int(512.5 * 2**20)),
        ("no memory", 0),
    ],
)
def test_what_a_step_would_have_taken_is_read_from_the_compilers_words(said, size):
    assert planning.needed_bytes(said) == size


def test_the_slowest_resource_bounds_the_step():
    """2 Tflop at 100 Tflop/s are 20 ms, 5 GB at 1 TB/s are 5 ms, 1 GB over links of 50 GB/s are 20 ms."""
    one = plan(step=step(moved={"all-reduce": Moved(2, 2 * 10**9)}))
    assert one.seconds() == pytest.approx({"operations": 0.02, "memory": 0.005, "links": 0.04})
    assert one.least() == pytest.approx(0.04)
    assert one.rate() == pytest.approx(64 / 0.04)
    assert one.target.hosts == 2
    assert one.cores() == pytest.approx(64 / 0.04 / 2 * (planning.DECODE + one.views * planning.CUT))


def test_images_on_the_device_take_no_cores_and_an_unknown_chip_has_no_time():
    assert plan(views=0).cores() == 0.0
    unknown = Target("host", CHIP._replace(flops=None), [None])
    assert plan(target=unknown).least() is None and plan(target=unknown).cores() is None
    assert plan(step=step(fits=False)).rate() is None


def test_a_straight_line_through_two_batches_meets_the_memory():
    """200 + 5 b reaches 1,000 at 160; with 24 devices that is 144."""
    seen = [step(32, 360), step(64, 520), step(48, 440)]
    assert planning.extrapolated(seen, 1000, 8) == 160
    assert planning.extrapolated(seen, 1000, 24) == 144
    assert planning.extrapolated(seen[:1], 1000, 8) is None
    assert planning.extrapolated([step(32, 360), step(64, 360)], 1000, 8) is None


@pytest.mark.parametrize("first", [8, 64, 152, 600])
def test_the_largest_batch_is_found_with_few_programs(first, monkeypatch):
    """Memory is 200 + 5 b of 1,000, so 160 is the largest; padding adds up to 8 from 100 images on."""
    looked = []

    class Batch:
        def __init__(self, size):
            self.optim = type("optim", (), {"batch_size": size})()

        def copy_and_resolve_references(self):
            return Batch(self.optim.batch_size)

    def compiled(config, mesh, target):
        size = config.optim.batch_size
        looked.append(size)
        needed = 200 + 5 * size + (8 if size > 100 else 0)
        return step(size, needed, fits=needed <= 1000)

    monkeypatch.setattr(planning, "compiled", compiled)
    monkeypatch.setattr(planning, "assemble", lambda config: config)
    mesh = make_mesh()
    found = planning.largest_batch(Batch(first), mesh, TARGET, compiled(Batch(first), mesh, TARGET))
    assert 150 <= found <= 160 and found % mesh.size == 0
    assert len(looked) <= 2 * planning.TRIES


def test_where_nothing_fits_none_is_found(monkeypatch):
    monkeypatch.setattr(planning, "compiled", lambda config, mesh, target: step(config.optim.batch_size, 0, False))
    monkeypatch.setattr(planning, "assemble", lambda config: config)
    assert planning.largest_batch(recipe("tiny"), make_mesh(), TARGET, step(32, 0, False)) == 0


@pytest.fixture(scope="module")
def tiny():
    target = Target("host", chips.here(), jax.devices()[:2])
    return planning.for_target(recipe("tiny"), target, 512, 10), target


def test_the_plan_of_a_real_step(tiny):
    """Parameters are those of the state that training starts with; a checkpoint is all of it."""
    config, target = tiny
    found = planning.make_plan(config, target, largest=False)
    parts = planning.assemble(config)
    state, resident, _ = planning.abstract_state(parts, make_mesh(2))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    assert found.step.memory["parameters"] == 4 * count
    assert found.checkpoint >= 3 * 4 * count  # moments, and a teacher beside them
    assert resident["train"]["image"].shape[0] == 512
    assert found.step.fits and found.largest is None and found.views == 0
    assert found.step.needed == sum(found.step.memory.values())
    assert found.step.moved["all-reduce"].bytes >= 4 * count  # gradients of two devices


def test_parameters_in_parts_take_a_part_of_the_memory_and_are_gathered(tiny):
    """The kernels of a wider network are split; a checkpoint stays as large."""
    config, target = tiny
    wide = config.copy_and_resolve_references()
    wide.backbone.width = 256
    whole = planning.make_plan(wide, target, largest=False)
    wide.run.fsdp = 2
    halved = planning.make_plan(wide, target, largest=False)
    for name in ("parameters", "optimiser"):
        assert 0.5 <= halved.step.memory[name] / whole.step.memory[name] < 0.6
    assert halved.checkpoint == whole.checkpoint and "all-gather" in halved.step.moved


def test_the_state_is_the_one_that_training_makes(tiny):
    parts = planning.assemble(tiny[0])
    state, resident, batch = planning.abstract_state(parts, make_mesh(2))
    made = jax.eval_shape(
        lambda r, b, k: create_state(parts.method, parts.optimiser, gather(r, b), k),
        resident, shape_batch(parts), jax.random.key(0),
    )  # fmt: skip
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), made)


def test_a_batch_that_does_not_divide_is_refused(tiny):
    config, _ = tiny
    other = config.copy_and_resolve_references()
    other.optim.batch_size = 24
    with pytest.raises(UserError, match="divisible by the 7"):
        planning.compiled(planning.assemble(other), make_mesh(7), TARGET)


def test_tpus_compute_in_bfloat16_and_published_weights_are_not_read():
    config = recipe("tiny")
    with config.unlocked():
        config.backbone.weights = "nowhere.safetensors"
        config.backbone.dtype = "auto"
    assert planning.for_target(config, TARGET, 0, 0).backbone.dtype == "bfloat16"
    here = planning.for_target(config, TARGET._replace(name="host"), 100, 3)
    assert here.backbone.dtype == "auto" and not here.backbone.weights
    assert here.data.streams.train.path == here.evals.data.path == "100x3"
