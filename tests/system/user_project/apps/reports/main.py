"""Makes a report of prices, in steps that its log tells."""

import os

import kernel

app = kernel.App("reports")


@app.action("write")
def write(ctx: kernel.KernelContext, payload: dict) -> dict:
    """Return the cheapest product of ``prices``, their average, and a text."""
    prices = payload["prices"]
    print("step 1 of 3: sort", len(prices), "prices")
    found = sorted(prices, key=lambda price: price["price"])
    print("step 2 of 3: compare")
    cheapest = found[0]
    average = sum(price["price"] for price in found) / len(found)
    print("step 3 of 3: write")
    lines = [os.environ["SHOP_NAME"], *(f"{price['product']}: {price['price']:.2f}" for price in found)]
    return {
        "day": payload["day"],
        "cheapest": cheapest["product"],
        "average": average,
        "text": "\n".join(lines),
    }
