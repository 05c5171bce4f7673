"""
The Kernel API on localhost, running real apps written with the official ``kernel`` SDK.

Start it with ``python -m airflow_provider_kernel.emulator APP.py [APP2.py ...]``, or from a test with
:class:`airflow_provider_kernel.testing.KernelEmulator`. State is kept in memory only.

The processes: a *server* (HTTP, all state); for each app file a *zygote*, which has imported the file and does
nothing but fork; for each invocation a *warden*, which is linked to the server by a socket, and the *worker*
below it, which runs the action. An invocation lives no longer than its link: when the server ends the link or
dies, the warden kills the worker and everything it started. Linux makes this airtight (orphans stay below the
warden); on other systems a process that an action detached by a double fork is out of reach.

Where Kernel's behaviour is unknown, the emulator takes the side that is harder on its clients. Those choices
are described where they are made, in ``account``, ``contract``, ``engine``, ``store``, ``stream`` and ``worker``.
"""

#: The variable that stands in for ``--api-key``, which other users of the machine can read.
API_KEY_VARIABLE = "KERNEL_EMULATOR_API_KEY"
