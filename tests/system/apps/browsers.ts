// An app in TypeScript that uses a browser: presses a button, and returns what the page says.

import { Kernel, type KernelContext } from "@onkernel/sdk";

const kernel = new Kernel();
const app = kernel.app("browsers-ts");

app.action("press", async (context: KernelContext, payload?: { url: string }) => {
  const browser = await kernel.browsers.create({
    invocation_id: context.invocation_id,
    kiosk_mode: true,
    start_url: payload!.url,
  });
  const evaluate = async (code: string): Promise<unknown> => {
    const done = await kernel.browsers.playwright.execute(browser.session_id, { code });
    if (!done.success) throw new Error(done.error);
    return done.result;
  };
  try {
    await evaluate(`await page.waitForURL(${JSON.stringify(payload!.url)})`);
    console.log("the page is open");
    await kernel.browsers.computer.clickMouse(browser.session_id, { x: 50, y: 140 });
    return await evaluate(`
      await page.waitForFunction(() => clicks.length);
      return await page.evaluate(() => ({ title: document.title, clicks }));
    `);
  } finally {
    await kernel.browsers.deleteByID(browser.session_id);
  }
});
