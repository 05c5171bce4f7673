"""
The emulator's browsers: Kernel's ``/browsers`` on a local Chromium.

- ``contract``, ``computer_contract``, ``keys`` and ``png`` are pure.
- ``pool`` creates, finds and closes browsers; a ``browser`` is one of them, on a ``chromium`` process.
- ``cdp`` speaks the Chrome DevTools Protocol with a browser; ``relay`` passes an app's CDP connection on.
- ``x11_controls`` and ``cdp_controls`` are the two ways to carry out the computer controls.
- ``screencast`` feeds the ``live_view`` and the ``replays``.
- ``script`` runs Playwright scripts; ``files`` is a browser's file system.
- ``routes`` has the endpoints.
"""
