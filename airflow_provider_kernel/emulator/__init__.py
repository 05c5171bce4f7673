"""
Kernel's API on localhost. The emulator runs real apps, which are written with Kernel's official SDK for Python or TypeScript.

Start the emulator with ``python -m airflow_provider_kernel.emulator APP [APP2 ...]``, or in a test with
:class:`airflow_provider_kernel.testing.KernelEmulator`. All state is in memory.

Four kinds of processes:

- The *server* answers HTTP and holds all state.
- A *forkserver* for each app file imports the file, and forks a supervisor for each invocation. Files in TypeScript or
  JavaScript are imported by Node.js, for the list of apps and in each worker.
- A *supervisor* for each invocation forks the worker. A socket, the *link*, connects it with the server.
- A *worker* for each invocation runs the action.

One supervisor with its worker waits for the next invocation of each app file, so that no invocation waits for forks.

An invocation ends with its link. When the server closes the link or dies, the supervisor kills the worker and every
process that the worker started. On Linux none escapes: orphans become children of the supervisor. On other systems a
process that an action detaches by a double fork survives.

Where Kernel's behaviour is unknown, the emulator behaves in the way that is harder for clients. The modules
``account``, ``contract``, ``deployments``, ``engine``, ``node``, ``store``, ``stream`` and ``worker`` list these choices.
"""

#: The environment variable that replaces ``--api-key``: other users of the machine can read a command line.
API_KEY_VARIABLE = "KERNEL_EMULATOR_API_KEY"

#: The API key that apps get, and that the emulator tells users to set, if the emulator accepts any key.
DEFAULT_API_KEY = "sk_emulator"
