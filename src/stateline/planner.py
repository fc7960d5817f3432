"""The solver behind plans: HiGHS, by the extra ``planner``. Programs in, answers out; no meaning of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stateline.contracts.program import Answer, At, Program
from stateline.core.errors import BadRequest, StatelineError

if TYPE_CHECKING:
    import highspy

_NO_GAP = 1e-9
"""What the solver's floats leave of a gap that is closed."""


class Planner:
    """Solves programs.

    Args:
        time_limit_s: for one program; the best answer so far counts then, with its gap.

    Raises:
        BadRequest: ``planner_missing``: the extra is not installed.
    """

    def __init__(self, time_limit_s: float = 600.0) -> None:
        try:
            import highspy
        except ImportError:
            message = "plans need the solver HiGHS; install it with: pip install 'stateline[planner]'"
            raise BadRequest(message, code="planner_missing") from None
        self._highs = highspy
        self._time_limit_s = time_limit_s

    def __call__(self, program: Program) -> Answer | None:
        """See ``program.Solver``.

        Raises:
            StatelineError: ``plan_unsolved``: no answer within the time limit.
        """
        if not program.columns:
            empty = all((row.lower or 0) <= 0 <= (row.upper or 0) for row in program.rows)
            idle: list[At] = ["basic" for _ in program.rows]
            return Answer({}, (), idle, 0.0) if empty else None
        integers = [index for index, column in enumerate(program.columns) if column.integer]
        gap, chosen = 0.0, dict[int, int]()
        if integers:
            solver = self._run(program, integers, {})
            if not self._feasible(solver):
                return None
            values = solver.getSolution().col_value
            chosen = {index: round(values[index]) for index in integers}
            gap = solver.getInfo().mip_gap
            gap = gap if gap > _NO_GAP else 0.0
        solver = self._run(program, (), chosen)
        if not self._feasible(solver):
            if not integers:
                return None
            message = "the solver's whole numbers hold by its tolerance alone; please report the portfolio"
            raise StatelineError(message, code="plan_unsolved")
        basis = solver.getBasis()
        words = self._words()
        return Answer(
            integers=chosen,
            columns=[words.get(one, "lower") for one in basis.col_status],
            rows=[words.get(one, "lower") for one in basis.row_status],
            gap=gap,
        )

    def _words(self) -> dict[Any, At]:
        status = self._highs.HighsBasisStatus
        return {status.kBasic: "basic", status.kLower: "lower", status.kUpper: "upper"}

    def _feasible(self, solver: highspy.Highs) -> bool:
        status, kinds = solver.getModelStatus(), self._highs.HighsModelStatus
        # Nothing is unbounded below here, so what the presolve cannot tell apart is infeasible.
        if status in (kinds.kInfeasible, kinds.kUnboundedOrInfeasible):
            return False
        found = solver.getInfo().primal_solution_status == 2
        if status == kinds.kOptimal or (status == kinds.kTimeLimit and found):
            return True
        message = f"no plan was found within {self._time_limit_s:g} s; allow more, or plan fewer workloads or quarters"
        raise StatelineError(message, code="plan_unsolved")

    def _run(self, program: Program, integers: Any, fixed: dict[int, int]) -> highspy.Highs:
        import numpy as np

        highs = self._highs
        endless = highs.kHighsInf
        # The greatest cost becomes 1: the solver's tolerances are absolute.
        greatest = max((abs(float(column.cost)) for column in program.columns), default=0.0) or 1.0
        model = highs.HighsLp()
        model.num_col_ = len(program.columns)
        model.num_row_ = len(program.rows)
        model.col_cost_ = np.array([float(column.cost) / greatest for column in program.columns])
        model.col_lower_ = np.array([float(fixed.get(index, 0)) for index in range(len(program.columns))])
        model.col_upper_ = np.array(
            [
                float(fixed[index]) if index in fixed else endless if column.upper is None else float(column.upper)
                for index, column in enumerate(program.columns)
            ]
        )
        model.row_lower_ = np.array([-endless if row.lower is None else float(row.lower) for row in program.rows])
        model.row_upper_ = np.array([endless if row.upper is None else float(row.upper) for row in program.rows])
        lengths = [len(row.terms) for row in program.rows]
        matrix = model.a_matrix_
        matrix.format_ = highs.MatrixFormat.kRowwise
        matrix.start_ = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        matrix.index_ = np.array([one for row in program.rows for one in row.terms], dtype=np.int32)
        matrix.value_ = np.array([float(factor) for row in program.rows for factor in row.terms.values()])
        if integers:
            kinds = [highs.HighsVarType.kContinuous] * len(program.columns)
            for index in integers:
                kinds[index] = highs.HighsVarType.kInteger
            model.integrality_ = kinds
        solver = _quiet(highs)
        for name, value in (
            ("output_flag", False),
            ("threads", 1),
            ("random_seed", 0),
            ("mip_rel_gap", 0.0),
            ("mip_abs_gap", 0.0),
            ("mip_allow_restart", False),  # A quarter less time on the portfolios of bench/plan.py.
            ("primal_feasibility_tolerance", 1e-9),
            ("dual_feasibility_tolerance", 1e-9),
            ("time_limit", self._time_limit_s),
        ):
            solver.setOptionValue(name, value)
        if not integers:
            solver.setOptionValue("solver", "simplex")
        solver.passModel(model)
        solver.run()
        return solver


def _quiet(highs: Any) -> highspy.Highs:
    """A solver that prints no banner: the binding prints one as it sets up callbacks, which nobody asks for here."""

    class Quiet(highs.Highs):
        def __init__(self) -> None:
            super(highs.Highs, self).__init__()

    return Quiet()
