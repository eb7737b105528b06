"""What is chosen for GPUs reaches each pool, and a cluster whose GPUs are all taken says so."""

from pathlib import Path

import pytest

from looper.platform.domain.errors import LooperError
from looper.platform.settings import PoolSettings, ServeSettings, Settings, load_settings
from looper.platform.settings.gpu_plan import GpuPlan
from looper.serve.deployment import gpu_defaults
from looper.serve.deployment.gpu_defaults import apply_fits, fit_to_gpus


def test_each_pool_has_its_budgets_and_all_the_smallest_batch() -> None:
    serve = ServeSettings(pools=(PoolSettings(max_lora_rank=64, disk_loras_gib=9),))
    fitted = {16: {"max_num_seqs": 100, "loras_gib": 4.0}, 64: {"max_num_seqs": 50, "loras_gib": 8.0}}
    chosen = apply_fits(serve, fitted)
    assert (chosen.seats, chosen.loras_gib) == (50, 4.0)
    assert [(pool.loras_gib, pool.disk_loras_gib) for pool in chosen.pools] == [(8.0, 9)]
    assert apply_fits(ServeSettings(max_num_seqs=7), {16: {}}).seats == 7


def test_without_gpus_nothing_changes(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    assert fit_to_gpus(settings, {settings.base: tmp_path}, GpuPlan(0, 0)) is settings


def test_each_base_model_has_its_own_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(settings: Settings, model_dir: Path, _: GpuPlan) -> Settings:
        serve = apply_fits(
            settings.serve, {pool.max_lora_rank: {"loras_gib": 4.0} for pool in settings.serve.all_pools}
        )
        return settings.model_copy(update={"serve": serve.model_copy(update={"max_num_seqs": int(model_dir.name)})})

    monkeypatch.setattr(gpu_defaults, "_fit_first_base", fit)
    settings = load_settings(base="small", serve={"port": 9}, bases=[{"base": "large"}, {"base": "third"}])
    folders = {"small": Path("100"), "large": Path("50"), "third": Path("70")}
    fitted = fit_to_gpus(settings, folders, GpuPlan(1, 1))
    assert (fitted.base, fitted.serve.port, set(fitted.base_names)) == ("small", 9, set(folders))
    assert {name: fitted.for_base(name).serve.seats for name in folders} == {"small": 100, "large": 50, "third": 70}
    assert {fitted.for_base(name).serve.loras_gib for name in folders} == {4.0}


def test_gpus_that_others_use_are_named(ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_defaults, "MEASURING_TIMEOUT_S", 0.5)
    with pytest.raises(LooperError, match=r"no GPU was free within 0\.5 s"):
        fit_to_gpus(load_settings(home=tmp_path, base="small"), {"small": tmp_path}, GpuPlan(1, 1))
