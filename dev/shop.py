"""A small shop on localhost: search, product, cart, checkout; for ``make demo-browser`` and the system tests."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from html import escape
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

#: Where the shop takes a file, as a bucket does by a presigned URL.
UPLOAD = "/uploads/order.png"
#: Maximum bytes of the file.
MAX_UPLOAD = 20 * 2**20

STYLE = """
body { font: 17px/1.5 sans-serif; margin: 0; background: #f6f4ef; color: #222 }
header { background: #23395b; padding: 14px 40px } header a { color: white; font-size: 22px; text-decoration: none }
main { max-width: 820px; margin: 30px auto; background: white; padding: 20px 40px 40px; border-radius: 8px }
table { border-collapse: collapse; width: 100%; margin: 16px 0 } td, th { text-align: left; padding: 8px; border-bottom: 1px solid #ddd }
input, button { font: inherit; padding: 7px 12px; margin: 4px 8px 4px 0 } label { display: block; margin: 10px 0 }
button { background: #23395b; color: white; border: 0; border-radius: 5px }
"""


class Product(NamedTuple):
    """What the shop sells; the price is in cents."""

    sku: str
    name: str
    price: int


PRODUCTS = {
    product.sku: product
    for product in (
        Product("camp-01", "Folding chair", 3490),
        Product("camp-02", "Storm lantern", 2450),
        Product("camp-03", "Enamel mug", 890),
        Product("camp-04", "Paper lantern", 790),
        Product("camp-05", "Wool blanket", 5900),
    )
}


@dataclass(frozen=True)
class Order:
    """What a customer has ordered."""

    number: str
    name: str
    reference: str
    cart: dict[str, int]

    @property
    def total(self) -> int:
        """The sum in cents."""
        return sum(PRODUCTS[sku].price * quantity for sku, quantity in self.cart.items())


class Shop:
    """
    Serves the shop on enter, until exit.

    :param port: a free port of localhost; 0: any.
    :param folder: where what is uploaded goes.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.upload = folder / UPLOAD.rpartition("/")[2]
        self.orders: dict[str, Order] = {}
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"shop": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def order(self, name: str, reference: str, cart: dict[str, int]) -> Order:
        """Take an order; one with the reference of another is that other one."""
        with self.lock:
            number = f"A-{1001 + len(self.orders)}"
            return self.orders.setdefault(reference or number, Order(number, name, reference, cart))


class _Handler(BaseHTTPRequestHandler):
    shop: Shop

    def do_GET(self) -> None:
        """Show a page."""
        url = urlsplit(self.path)
        first, _, rest = url.path.strip("/").partition("/")
        if first == "":
            self._page("Products", _products(parse_qs(url.query).get("q", [""])[0]))
        elif first == "product" and rest in PRODUCTS:
            self._page(PRODUCTS[rest].name, _product(PRODUCTS[rest]))
        elif first == "cart":
            self._page("Your cart", _cart(self._read_cart()))
        elif first == "checkout":
            self._page("Checkout", _CHECKOUT)
        elif orders := [
            order for order in self.shop.orders.values() if first == "order" and order.number == rest
        ]:
            self._page("Thank you for your order", _order(orders[0]))
        else:
            self._page("There is no such page", "", 404)

    def do_POST(self) -> None:
        """Take a form, and lead to the next page."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        cart = self._read_cart()
        if self.path == "/cart" and form.get("sku") in PRODUCTS and form.get("quantity", "").isdecimal():
            cart[form["sku"]] = cart.get(form["sku"], 0) + int(form["quantity"])
            self._lead_to("/cart", cart)
        elif self.path == "/order" and cart and form.get("name"):
            self._lead_to(
                f"/order/{self.shop.order(form['name'], form.get('reference', ''), cart).number}", {}
            )
        else:
            self._page("The form is not complete", "", 400)

    def do_PUT(self) -> None:
        """Take the file."""
        length = int(self.headers.get("Content-Length", 0))
        is_taken = self.path == UPLOAD and length <= MAX_UPLOAD
        if is_taken:
            self.shop.upload.write_bytes(self.rfile.read(length))
        self.send_response(200 if is_taken else 403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _read_cart(self) -> dict[str, int]:
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("cart")
        entries = re.findall(r"([\w-]+)\.(\d+)", cookie.value) if cookie else []
        return {sku: int(quantity) for sku, quantity in entries if sku in PRODUCTS}

    def _lead_to(self, path: str, cart: dict[str, int]) -> None:
        self.send_response(303)
        self.send_header("Location", path)
        entries = "_".join(f"{sku}.{quantity}" for sku, quantity in cart.items())
        self.send_header("Set-Cookie", f"cart={entries}; Path=/; HttpOnly")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _page(self, title: str, content: str, status: int = 200) -> None:
        body = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
            f'<header><a href="/">The Camping Shop</a></header><main><h1>{escape(title)}</h1>{content}</main>'
        ).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _money(cents: int) -> str:
    return f"{cents / 100:.2f}"


def _products(query: str) -> str:
    rows = "".join(
        f'<tr><td><a href="/product/{product.sku}">{product.name}</a></td><td>{_money(product.price)}</td></tr>'
        for product in PRODUCTS.values()
        if query.lower() in product.name.lower()
    )
    search = f'<form><input name="q" type="search" aria-label="Search" value="{escape(query)}"><button>Search</button></form>'
    return f"{search}<table>{rows}</table>"


def _product(product: Product) -> str:
    return (
        f'<p>Price: {_money(product.price)}</p><form method="post" action="/cart"><input type="hidden" name="sku" '
        f'value="{product.sku}"><label>Quantity <input name="quantity" type="number" min="1" max="99" value="1"></label>'
        "<button>Add to cart</button></form>"
    )


def _cart(cart: dict[str, int]) -> str:
    return (
        f'{_lines(cart)}<p><a href="/checkout"><button>Check out</button></a></p>'
        if cart
        else "<p>It is empty.</p>"
    )


_CHECKOUT = (
    '<form method="post" action="/order"><label>Name <input name="name" required></label>'
    '<label>Your reference <input name="reference"></label><button>Order</button></form>'
)


def _order(order: Order) -> str:
    facts = {
        "Number": order.number,
        "Name": order.name,
        "Reference": order.reference,
        "Total": _money(order.total),
    }
    rows = "".join(f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f'{_lines(order.cart)}<table id="order">{rows}</table>'


def _lines(cart: dict[str, int]) -> str:
    rows = "".join(
        f"<tr><td>{PRODUCTS[sku].name}</td><td>{quantity}</td><td>{_money(PRODUCTS[sku].price * quantity)}</td></tr>"
        for sku, quantity in cart.items()
    )
    return f'<table id="lines"><tr><th>Product</th><th>Quantity</th><th>Price</th></tr>{rows}</table>'
