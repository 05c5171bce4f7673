"""
A run in which everything dies: a real Airflow, a faulty way to Kernel, kills and clears, all by a seed.

``python -m tests.system.chaos --seed 7 --minutes 10`` carries it out and prints what came of it:

- ``plan``: what is to happen, from the seed alone.
- ``run`` starts the world and carries the plan out with ``monkey``; ``audit`` has PostgreSQL write every change
  of a task's state down, ``watch`` collects what the emulator and Airflow say.
- ``history`` is what did happen, as data; ``judge`` finds what must not be in it, ``excuses`` proves which of
  that nobody could have prevented, ``report`` prints it.
"""
