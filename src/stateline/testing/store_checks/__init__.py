"""The checks of ``exercise_store``, by area. Each is a coroutine ``check_…`` over a Rig."""
