"""A list of Kernel's API, page by page. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Generator
from math import inf
from typing import Any

from airflow_provider_kernel.api.endpoints import Page, Request
from airflow_provider_kernel.api.errors import KernelResponseTooLargeError


class PagedList:
    """
    Reads a list page by page. A page that is too large is requested again with half of its items.

    :param request: returns the request of a page, from ``limit`` and ``offset``.
    :param page_size: items per page, 1-100. Default 100.
    :param max_bytes: bytes that all pages together may have. Default: any number.
    :param max_offset: offset from which no page is requested. Default: any.
    """

    def __init__(
        self,
        request: Callable[..., Request[Page]],
        page_size: int = 100,
        *,
        max_bytes: float = inf,
        max_offset: float = inf,
    ) -> None:
        self._request = request
        self._page_size = page_size
        self._bytes_left = max_bytes
        self._max_offset = max_offset
        self._offset: int | None = 0

    @property
    def has_more(self) -> bool:
        """Whether there is another page."""
        return self._offset is not None and self._offset < self._max_offset

    @property
    def is_cut(self) -> bool:
        """Whether there is another page beyond ``max_offset``."""
        return self._offset is not None and self._offset >= self._max_offset

    def next_page(self) -> Generator[Request[Page], Page, list[Any]]:
        """
        Yield the request of the next page, and be sent the page. After an error, the same page is next.

        :return: the items of the page.
        :raises KernelResponseTooLargeError: one item is too large, or all pages together are.
        """
        while True:
            try:
                page = yield self._request(limit=self._page_size, offset=self._offset or None)
            except KernelResponseTooLargeError:
                if self._page_size == 1:
                    raise
                self._page_size //= 2
                continue
            self._offset = page.next_offset
            self._bytes_left -= page.size
            if self._offset is not None and self._bytes_left < 0:
                raise KernelResponseTooLargeError("Kernel's list does not come to an end.")
            return page.items
