"""How long does one image take on several unequal accelerators, and how far is that from what could be?

Run ``python benchmarks/stadi_time.py``; writes ``build/results/stadi_time.json``. DiT-XL/2 at 512 x 512 (32 rows of 32
tokens, guidance), 50 steps of which at least 4 are synchronous; all times are simulated, no image is made.

- ``reduction_vs_patch_1to2``, ``reduction_vs_elastic_1to2``: latency that STADI saves over uniform and over elastic
  patches, on an array of 128 x 128 and one of half the columns, drain lanes and bandwidth. ``_clock``: half the clock
  instead; ``_load``: half the time taken by others.
- ``latency_METHOD_1toR_N``: N devices, N // 2 of them R times as slow.
- ``bound_ratio_min``, ``utilisation_min``: over all static settings with STADI; ``_varying``: with loads that change
  and re-planning. ``planner_error_max``: of all methods in all static settings.
- ``coded_CODING_SPEED``: 1:2 over slow links, keys and values whole or as residuals of few bits in blocks of 72 (the
  width of a head).
- ``link_drop_FACTOR_1toR_N``: all links drop to a part of their bandwidth at 0.3 s, with re-planning.
- ``queue_burst_POLICY_1toR_N``: 32 images at once; ``_steady``: at 0.8 of the rate that one image at a time allows;
  ``_equal_strides``: all devices evaluate every step, as a device alone does.
- ``unet_METHOD_1toR_N``: Stable Diffusion 1.5; ``unet_whole_patch_error``: cost of all rows against the whole model.
- ``joint_energy_saving``: clocks, voltages and plan chosen together, at most the latency of elastic patches, without
  errors, against the same plan with every device at 0.85 V and its own clock; ``_equal_latency``: at most the latency
  of STADI; ``_published``, ``_array``: of the energy that DRIFT counts, and of the array alone;
  ``_published_model``: with the published ratio of compute to memory; ``_protected``: points
  with errors that are corrected; ``_clock``: the slow device has half the clock.
- ``straggler_reduction``, ``straggler_elastic_reduction``: latency saved, from STADI and from elastic patches, where
  the slow device may be overclocked to that error rate; ``overclocked_reduction``: where both may.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

from brownout.host import write_results
from brownout.host.device.power.energy import EnergyModel
from brownout.host.device.power.timing import NOMINAL_VOLTAGE_V
from brownout.host.drift.accounting.published import PUBLISHED
from brownout.host.errors import PlanError
from brownout.host.stadi.plan.allocation import largest_ratio
from brownout.host.stadi.plan.coding import ExchangeCoding
from brownout.host.stadi.plan.costs import CostModel
from brownout.host.stadi.plan.device import DeviceSpec, FleetSpec
from brownout.host.stadi.plan.link import BandwidthTrace, Link, Links
from brownout.host.stadi.plan.load import LoadTrace
from brownout.host.stadi.plan.patches import PatchedWorkload
from brownout.host.stadi.plan.plan import Plan
from brownout.host.stadi.plan.planner import METHODS, Planner
from brownout.host.stadi.plan.points import GUARD_BAND_V, PointedPlan, at_guard_band, least_energy, least_latency
from brownout.host.stadi.plan.prediction import bound_s
from brownout.host.stadi.plan.unet import PatchedUnet
from brownout.host.stadi.simulate.interval import Failure
from brownout.host.stadi.simulate.queue import POLICIES, ImageQueue, QueueServer
from brownout.host.stadi.simulate.replanning import Replanner
from brownout.host.stadi.simulate.simulation import Replan, Simulation
from brownout.host.stadi.simulate.timeline import Timeline
from brownout.host.workload.counting import CountedWorkload
from brownout.hw.config import AcceleratorConfig
from brownout.hw.configurations import SERVER
from denoisers.published import DENOISERS, GUIDED, on_meta

ROWS = TOKENS_PER_ROW = 32
COUNTS, RATIOS = (2, 3, 4, 8), (1, 2, 3, 4)

CLOCKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
PROTECTED_CLOCKS = (1.0, 0.9, 0.8, 0.7)
ERROR_RATE = 1e-3

LINKS_BYTES_PER_S = (100e9, 25e9, 5e9, 2.5e9)
CODED_LINKS_BYTES_PER_S = (2.5e9, 1e9, 0.5e9, 0.25e9)
CODINGS = {
    "whole": None,
    "4_bits": ExchangeCoding(4, 72),
    "2_bits": ExchangeCoding(2, 72),
    "2_bits_keyframes": ExchangeCoding(2, 72, 8),
}
QUEUED, QUEUE_LOAD = 32, 0.8
LINK_DROPS = (0.1, 0.03, 0.01)


def part_of_server(ratio: int) -> AcceleratorConfig:
    """`SERVER` with columns, drain lanes and bandwidth divided; blocks of outputs are as wide as there."""
    return replace(
        SERVER,
        cols=-(-SERVER.cols // ratio),
        block_col_tiles=SERVER.block_col_tiles * ratio,
        drain_lanes=max(1, SERVER.drain_lanes // ratio),
        memory=replace(SERVER.memory, bytes_per_cycle=SERVER.memory.bytes_per_cycle // ratio),
    )


def fleet_of(count: int, ratio: int) -> FleetSpec:
    """Some devices, the smaller half of them slow."""
    slow = count // 2
    configs = [SERVER] * (count - slow) + [part_of_server(ratio)] * slow
    names = [f"fast{i}" for i in range(count - slow)] + [f"slow{i}" for i in range(slow)]
    return FleetSpec(tuple(DeviceSpec(name=name, config=config) for name, config in zip(names, configs, strict=True)))


def varying() -> dict[str, FleetSpec]:
    """Fleets whose loads change while an image is made, which takes 1 to 4 seconds."""
    half_way = LoadTrace((0.0, 0.8), (0.0, 0.5))
    wave = LoadTrace(tuple(0.5 * i for i in range(12)), tuple(0.5 * (i % 2) for i in range(12)))
    generator = np.random.default_rng(0)
    steps = tuple(np.concatenate([[0.0], np.cumsum(generator.uniform(0.2, 0.6, 15))]).tolist())
    walks = [LoadTrace(steps, tuple(generator.uniform(0.0, 0.7, 16).tolist())) for _ in range(4)]
    equal = fleet_of(2, 1).devices
    unequal = fleet_of(2, 2).devices
    four = fleet_of(4, 2).devices
    return {
        "slowdown_1to1_2": FleetSpec((equal[0], replace(equal[1], load=half_way))),
        "slowdown_1to2_2": FleetSpec((unequal[0], replace(unequal[1], load=half_way))),
        "fast_slowdown_1to2_2": FleetSpec((replace(unequal[0], load=half_way), unequal[1])),
        "wave_1to2_2": FleetSpec((unequal[0], replace(unequal[1], load=wave))),
        "random_1to1_2": FleetSpec(tuple(replace(d, load=w) for d, w in zip(equal, walks, strict=False))),
        "random_1to2_4": FleetSpec(tuple(replace(d, load=w) for d, w in zip(four, walks, strict=True))),
    }


class Study:
    """Runs plans and keeps what comes out."""

    def __init__(self) -> None:
        workload = DENOISERS["dit_xl_2_512"].workload()
        self.model = PatchedWorkload(workload, ROWS, TOKENS_PER_ROW, GUIDED)
        self.costs = CostModel(self.model)
        self.metrics: dict[str, float] = {}
        self.settings: dict[str, Any] = {}
        self.timelines: dict[str, Timeline] = {}

    def run(self, fleet: FleetSpec, plan: Plan, replan: Replan | None = None) -> Timeline:
        return Simulation(fleet, self.costs).run(plan, replan)

    def note(self, name: str, fleet: FleetSpec, timeline: Timeline, **more: Any) -> None:
        """Keep all of a run."""
        self.settings[name] = {
            "latency_s": timeline.latency_s,
            "utilisation": timeline.utilisation,
            "exposed_s": timeline.exposed_s,
            "energy_j": timeline.energy_j,
            "link_bytes": timeline.link_bytes,
            "bound_ratio": self.ratio(fleet, timeline),
            "plans": len(timeline.plans),
            "shares": [
                [share.device, share.stride, share.count, share.warmup_count] for share in timeline.plans[0].shares
            ],
            **more,
        }

    def ratio(self, fleet: FleetSpec, timeline: Timeline) -> float:
        """Bound over latency; halves of guidance have no bound of this kind."""
        if timeline.plans[0].divides_batch:
            return 0.0
        return bound_s(timeline.plans, fleet, self.costs) / timeline.latency_s

    def methods(self, name: str, fleet: FleetSpec) -> dict[str, Timeline]:
        """All methods on a fleet."""
        planner, found = Planner(fleet, self.costs), {}
        for method in METHODS:
            try:
                explained = planner.plan(method)
            except PlanError:
                continue
            timeline = found[method] = self.run(fleet, explained.plan)
            error = abs(explained.prediction.latency_s / timeline.latency_s - 1)
            self.note(f"{method}_{name}", fleet, timeline, planner_error=error)
            self.metrics[f"latency_{method}_{name}"] = timeline.latency_s
            self.timelines[f"{method}_{name}"] = timeline
        return found

    def static(self) -> None:
        """Methods over numbers of devices and ratios."""
        for count in tqdm(COUNTS, desc="static"):
            for ratio in RATIOS:
                self.methods(f"1to{ratio}_{count}", fleet_of(count, ratio))
        chosen = {name: each for name, each in self.settings.items() if name.startswith("stadi_")}
        self.metrics["bound_ratio_min"] = min(each["bound_ratio"] for each in chosen.values())
        utilisation = {name: min(each["utilisation"].values()) for name, each in chosen.items()}
        self.metrics["utilisation_min"] = min(utilisation.values())
        self.metrics["utilisation_min_4_devices"] = min(
            value for name, value in utilisation.items() if not name.endswith("_8")
        )
        self.metrics["bound_ratio_min_4_devices"] = min(
            each["bound_ratio"] for name, each in chosen.items() if not name.endswith("_8")
        )
        self.metrics["planner_error_max"] = max(each["planner_error"] for each in self.settings.values())
        self.metrics["exposed_share_max"] = max(
            max(each["exposed_s"].values()) / each["latency_s"] for each in chosen.values()
        )

    def one_to_two(self) -> None:
        """The headline, and the same ratio by clock and by load."""
        fast, slow = fleet_of(2, 2).devices
        fleets = {
            "": FleetSpec((fast, slow)),
            "_clock": FleetSpec((fast, replace(fast, name="slow", frequency_hz=fast.frequency_hz / 2))),
            "_load": FleetSpec((fast, replace(fast, name="slow", load=LoadTrace.constant(0.5)))),
        }
        for suffix, fleet in fleets.items():
            found = self.methods(f"1to2{suffix}_2", fleet)
            latency = found["stadi"].latency_s
            self.metrics[f"reduction_vs_patch_1to2{suffix}"] = 1 - latency / found["uniform"].latency_s
            self.metrics[f"reduction_vs_elastic_1to2{suffix}"] = 1 - latency / found["elastic"].latency_s
            self.metrics[f"elastic_vs_patch_1to2{suffix}"] = 1 - found["elastic"].latency_s / found["uniform"].latency_s

    def links(self) -> None:
        """1:2 over faster and slower links."""
        for speed in LINKS_BYTES_PER_S:
            fleet = replace(fleet_of(2, 2), links=Links(Link(bytes_per_s=speed)))
            planner = Planner(fleet, self.costs)
            explained = planner.plan()
            timeline = self.run(fleet, explained.plan)
            name = f"link_{speed / 1e9:g}gb_per_s"
            error = abs(explained.prediction.latency_s / timeline.latency_s - 1)
            self.note(name, fleet, timeline, planner_error=error)
            self.metrics[f"{name}_latency"] = timeline.latency_s
            self.metrics[f"{name}_exposed_share"] = max(timeline.exposed_s.values()) / timeline.latency_s
            self.metrics[f"{name}_planner_error"] = error

    def varying(self) -> None:
        """Loads that change: STADI with and without re-planning, and elastic patches as planned at first."""
        ratios = []
        for name, fleet in tqdm(varying().items(), desc="varying"):
            planner = Planner(fleet, self.costs)
            elastic = self.run(fleet, planner.plan("elastic").plan)
            fixed = self.run(fleet, planner.plan().plan)
            timeline = self.run(fleet, planner.plan().plan, Replanner(planner))
            self.note(f"varying_{name}", fleet, timeline)
            ratios.append(self.settings[f"varying_{name}"]["bound_ratio"])
            self.metrics[f"varying_{name}_latency"] = timeline.latency_s
            self.metrics[f"varying_{name}_bound_ratio"] = ratios[-1]
            self.metrics[f"varying_{name}_reduction_vs_fixed"] = 1 - timeline.latency_s / fixed.latency_s
            self.metrics[f"varying_{name}_reduction_vs_elastic"] = 1 - timeline.latency_s / elastic.latency_s
        self.metrics["bound_ratio_min_varying"] = min(ratios)

    def coded_links(self) -> None:
        """1:2 over slow links, with keys and values whole and in few bits."""
        for speed in CODED_LINKS_BYTES_PER_S:
            fleet = replace(fleet_of(2, 2), links=Links(Link(bytes_per_s=speed)))
            for name, coding in CODINGS.items():
                costs = self.costs.on(replace(self.model, coding=coding))
                explained = Planner(fleet, costs).plan()
                timeline = Simulation(fleet, costs).run(explained.plan)
                key = f"coded_{name}_{speed / 1e9:g}gb_per_s"
                self.note(key, fleet, timeline)
                self.metrics[f"{key}_latency"] = timeline.latency_s
                self.metrics[f"{key}_gigabytes"] = timeline.link_bytes / 1e9
                self.metrics[f"{key}_planner_error"] = abs(explained.prediction.latency_s / timeline.latency_s - 1)

    def changing_links(self) -> None:
        """Links of 1:1 and 1:2 that drop while the image is made: with and without re-planning."""
        for count, ratio in ((2, 1), (2, 2), (4, 2)):
            for factor in LINK_DROPS:
                link = Link(trace=BandwidthTrace((0.0, 0.3), (1.0, factor)))
                fleet = replace(fleet_of(count, ratio), links=Links(link))
                planner = Planner(fleet, self.costs)
                plan = planner.plan().plan
                fixed = self.run(fleet, plan)
                timeline = self.run(fleet, plan, Replanner(planner))
                name = f"link_drop_{factor:g}_1to{ratio}_{count}"
                self.note(name, fleet, timeline)
                self.metrics[f"{name}_latency"] = timeline.latency_s
                self.metrics[f"{name}_reduction_vs_fixed"] = 1 - timeline.latency_s / fixed.latency_s

    def queues(self) -> None:
        """Many images on 1:1 and 1:2: all at once, and at a rate that only some policies keep up with."""
        for count, ratio, max_stride in ((2, 2, 4), (4, 1, 4), (4, 2, 4), (8, 2, 4), (4, 2, 1), (8, 2, 1)):
            fleet = fleet_of(count, ratio)
            server = QueueServer(Planner(fleet, self.costs, max_stride=max_stride))
            suffix = f"1to{ratio}_{count}" + ("" if max_stride > 1 else "_equal_strides")
            burst = ImageQueue.all_at_once(QUEUED)
            single = server.serve(ImageQueue.all_at_once(1), "one_by_one")
            steady = ImageQueue.at_rate(QUEUED, QUEUE_LOAD * single.images_per_s)
            for name, queue in (("burst", burst), ("steady", steady)):
                for policy in POLICIES:
                    found = server.serve(queue, policy)
                    key = f"queue_{name}_{policy}_{suffix}"
                    self.metrics[f"{key}_images_per_s"] = found.images_per_s
                    self.metrics[f"{key}_mean_latency"] = found.mean_latency_s
                    self.metrics[f"{key}_p95_latency"] = found.p95_latency_s
                    self.metrics[f"{key}_image_j"] = found.image_j
                    self.settings[key] = {"groups": found.groups}

    def unet(self) -> None:
        """SD 1.5, whose 64 rows of latents are 8 rows of the deepest level."""
        denoiser = DENOISERS["sd_1_5"]
        arguments = on_meta(denoiser.inputs())
        divided = PatchedUnet.trace(denoiser.build("meta"), lambda model: model(**arguments), images=GUIDED)
        costs = CostModel(divided)
        whole = CountedWorkload(SERVER, divided.workload, requantise=True).evaluate()["time_s"]
        fast = fleet_of(2, 2).devices[0]
        self.metrics["unet_whole_patch_error"] = abs(costs.of(fast).seconds(divided.rows) / whole - 1)
        for count, ratio in ((2, 1), (2, 2), (4, 2)):
            fleet = fleet_of(count, ratio)
            planner = Planner(fleet, costs)
            for method in METHODS:
                if method == "guidance" and count != 2:
                    continue
                explained = planner.plan(method)
                timeline = Simulation(fleet, costs).run(explained.plan)
                key = f"unet_{method}_1to{ratio}_{count}"
                self.metrics[f"{key}_latency"] = timeline.latency_s
                self.metrics[f"{key}_planner_error"] = abs(explained.prediction.latency_s / timeline.latency_s - 1)
                bound = 0.0 if timeline.plans[0].divides_batch else bound_s(timeline.plans, fleet, costs)
                shares = [
                    [share.device, share.stride, share.count, share.warmup_count] for share in explained.plan.shares
                ]
                self.settings[key] = {
                    "latency_s": timeline.latency_s,
                    "bound_ratio": bound / timeline.latency_s,
                    "utilisation": timeline.utilisation,
                    "exposed_s": timeline.exposed_s,
                    "link_bytes": timeline.link_bytes,
                    "shares": shares,
                }

    def loss(self) -> None:
        """The slow device of 1:2 stops at half of the latency."""
        fleet = fleet_of(2, 2)
        planner = Planner(fleet, self.costs)
        plan = planner.plan().plan
        undisturbed = self.run(fleet, plan).latency_s
        failure = Failure("slow0", undisturbed / 2)
        timeline = Simulation(fleet, self.costs).run(plan, Replanner(planner), [failure])
        self.metrics["loss_latency"] = timeline.latency_s
        alone = self.metrics["latency_single_1to2_2"]
        # Half of the image by two devices, the rest by one: what a loss that costs nothing else would take.
        self.metrics["loss_overhead"] = timeline.latency_s / ((undisturbed + alone) / 2) - 1

    def points(self) -> None:
        """Operating points chosen with the plan, on 1:2."""
        planner = Planner(fleet_of(2, 2), self.costs)
        # Predicted ones, as the search goes by these.
        elastic, own = (planner.plan(method).prediction.latency_s for method in ("elastic", "stadi"))
        saving, found = self._saving(planner, elastic, CLOCKS)
        self.metrics["joint_energy_saving"] = saving
        self.metrics["joint_latency"] = self.run(found.fleet, found.explained.plan).latency_s
        self.settings["joint"] = self._describe(found)
        # The same choice by what DRIFT counts, and by the array alone.
        for name, model in {
            "published": EnergyModel.published(),
            "array": EnergyModel(dram_byte_j=0, activation_j=0, sram_byte_j=0, leakage_w=0),
        }.items():
            energies = [
                Simulation(replace(fleet, links=Links(Link(byte_j=0))), CostModel(self.costs.model, model))
                .run(found.explained.plan)
                .energy_j
                for fleet in (found.fleet, at_guard_band(planner.fleet))
            ]
            self.metrics[f"joint_energy_saving_{name}"] = 1 - energies[0] / energies[1]
        compute = PUBLISHED["dit"].compute * (GUARD_BAND_V / NOMINAL_VOLTAGE_V) ** 2
        share = compute / (1 + compute)
        self.metrics["joint_energy_saving_published_model"] = share * self.metrics["joint_energy_saving_array"]
        self.metrics["joint_energy_saving_equal_latency"], _ = self._saving(planner, own, CLOCKS)
        halved = replace(planner.fleet.devices[0], name="slow0", frequency_hz=1e9)
        clocked = planner.on(FleetSpec((planner.fleet.devices[0], halved)))
        limit = clocked.plan("elastic").prediction.latency_s
        self.metrics["joint_energy_saving_clock"], _ = self._saving(clocked, limit, CLOCKS[::2])
        protected, found = self._saving(planner, elastic, PROTECTED_CLOCKS, ERROR_RATE)
        self.metrics["joint_energy_saving_protected"] = protected
        self.settings["joint_protected"] = self._describe(found)
        for name, method, among in (
            ("straggler_elastic", "elastic", ("slow0",)),
            ("straggler", "stadi", ("slow0",)),
            ("overclocked", "stadi", None),
        ):
            faster = least_latency(planner, ERROR_RATE, among=among, method=method)
            timeline = self.run(faster.fleet, faster.explained.plan)
            self.note(name, faster.fleet, timeline, points=self._describe(faster))
            self.metrics[f"{name}_reduction"] = 1 - timeline.latency_s / self.metrics[f"latency_{method}_1to2_2"]

    def _saving(
        self, planner: Planner, limit_s: float, clocks: tuple[float, ...], error_rate: float = 0.0
    ) -> tuple[float, PointedPlan]:
        """Energy saved against the same plan with every device at 0.85 V, both simulated."""
        found = least_energy(planner, limit_s, clocks, error_rate=error_rate)
        plan = found.explained.plan
        joint = Simulation(found.fleet, planner.costs).run(plan)
        base = Simulation(at_guard_band(planner.fleet), planner.costs).run(plan)
        return 1 - joint.energy_j / base.energy_j, found

    @staticmethod
    def _describe(found: PointedPlan) -> dict[str, Any]:
        points = {each.name: [each.frequency_hz, each.voltage_v] for each in found.fleet.devices}
        shares = [[share.device, share.stride, share.count] for share in found.explained.plan.shares]
        return {"points": points, "shares": shares, "energy_j": found.energy_j}


def run_study() -> Study:
    """All of it."""
    study = Study()
    study.static()
    study.one_to_two()
    study.links()
    study.varying()
    study.coded_links()
    study.changing_links()
    study.queues()
    study.unet()
    study.loss()
    study.points()
    table = study.costs.of(fleet_of(2, 2).devices[0]).table
    for stride in (2, 4):
        study.metrics[f"threshold_stride_{stride}"] = largest_ratio(table, stride)
    return study


def main() -> None:
    study = run_study()
    path = write_results("stadi_time", study.metrics, config=study.settings)
    print(path)
    for name, value in study.metrics.items():
        if not name.startswith("latency_"):
            print(f"{name:48} {value:.4f}")


if __name__ == "__main__":
    main()
