import pytest
from click.testing import CliRunner

from errors import UserError
from streaming.impressions import ImpressionSchema
from trainers.plan import command
from trainers.planning import GIB, Machine, Plan, plan_tables
from trainers.settings import LevelConfig, ModelConfig, TableConfig

LARGE = LevelConfig(
    batch_size=65_536,
    model=ModelConfig(
        dim=64,
        id_buckets=64,
        ids=TableConfig(rows=6_400_000),
        tables={"user_id": TableConfig(rows=192_000_000), "item_id": TableConfig(rows=19_200_000)},
    ),
)
MANAGED = {"user_id", "item_id", "creative_id"}
SCHEMA = ImpressionSchema()


def gpus(count: int, gpu_gib: float = 80, host_gib: float = 1024) -> Machine:
    return Machine("cuda", count, int(gpu_gib * GIB), int(host_gib * GIB), min(count, 8))


def tables_of(plan: Plan) -> dict:
    return {table.name: table for table in plan.tables}


@pytest.mark.parametrize("count", [1, 8, 64])
def test_large_tables_are_spread_over_all_gpus_and_fit(count):
    plan = plan_tables(LARGE, SCHEMA, gpus(count))
    tables = tables_of(plan)
    assert set(tables) == MANAGED | {"segment", "category", "position", "hour"}
    for name in MANAGED:
        assert tables[name].sharding == "row_wise"
        assert sorted(tables[name].device_bytes) == list(range(count))
    assert all(table.kernel == "fused" for table in plan.tables)
    total = sum(plan.bytes_of(rank)[0] for rank in range(count))
    weights = 192_000_000 * (64 * 4 + 4)
    assert total > weights
    for rank in range(count):
        near, far = plan.bytes_of(rank)
        assert near < 80 * GIB
        assert far == 0
        assert near < 1.2 * total / count


def test_a_table_larger_than_a_gpu_is_cached_from_host_memory():
    plan = plan_tables(LARGE, SCHEMA, gpus(1, gpu_gib=40))
    users = tables_of(plan)["user_id"]
    assert users.kernel == "fused_uvm_caching"
    near, far = plan.bytes_of(0)
    assert near < 40 * GIB < users.rows * (64 * 4 + 4)
    assert far >= users.rows * 64 * 4


@pytest.mark.parametrize(
    ("machine", "numbers"),
    [
        (gpus(1, gpu_gib=16, host_gib=16), r"need 59.2 GiB .*'user_id', 52.2 GiB .* 13.6 GiB"),
        (gpus(1, gpu_gib=4), r"need 59.2 GiB .*at least 17.0 GiB of it on GPUs.* 3.4 GiB to give"),
        (Machine("cpu", 2, 0, 16 * GIB, 2), r"need 59.2 GiB .*this host has 13.6 GiB to give"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers_and_ways_out(machine, numbers):
    with pytest.raises(UserError, match=numbers) as refused:
        plan_tables(LARGE, SCHEMA, machine)
    assert "fewer rows (model.tables.user_id.rows)" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_on_cpu_managed_tables_are_cut_and_the_others_kept_whole():
    plan = plan_tables(LevelConfig(), SCHEMA, Machine("cpu", 2, 0, 16 * GIB, 2))
    for table in plan.tables:
        expected = ("row_wise", 2) if table.name in MANAGED else ("table_wise", 1)
        assert (table.sharding, len(table.device_bytes)) == expected


def test_ranks_that_do_not_divide_the_buckets_are_refused():
    with pytest.raises(UserError, match="id_buckets = 8 is not a multiple of 3 ranks"):
        plan_tables(LevelConfig(), SCHEMA, gpus(3))


def test_the_command_prints_a_line_for_each_table_and_the_fullest_rank():
    options = ["--gpus", "8", "--gpu-memory-gib", "80", "--host-memory-gib", "512"]
    result = CliRunner().invoke(command, options, catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split()[:3] == ["table", "rows", "dim"]
    assert any(line.startswith("user_id") and " 0-7 " in line for line in lines)
    assert "of 80.00 GiB on the GPU" in lines[-1]
    assert len(lines) == 1 + 7 + 1


def test_a_model_with_a_history_is_planned_as_one_without():
    flags = ["--set=actr.history=true", "--set=history.aggregation=attention"]
    told = [CliRunner().invoke(command, ["--device", "cpu", *more]) for more in ([], flags)]
    assert [result.exit_code for result in told] == [0, 0], told[1].output
    assert told[0].output == told[1].output, "vectors of the history are no tables of its own"
