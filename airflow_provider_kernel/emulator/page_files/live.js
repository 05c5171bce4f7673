// The live view: draws the pictures of a browser's active page, and sends it the reader's clicks and keys.
"use strict";

const canvas = document.getElementById("picture");
const keyboard = document.getElementById("keyboard");
const status = document.getElementById("status");
const context = canvas.getContext("2d");
const query = new URLSearchParams(location.search);
const isThumbnail = query.has("thumbnail");
const isReadOnly = isThumbnail || query.get("readOnly") === "true";
const BUTTONS = ["left", "middle", "right", "back", "forward"];
const RETRY_MS = 1000;

let socket = null;
let page = { width: 1, height: 1 };
let newest = null;

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}${location.pathname}/stream${location.search}`);
  socket.binaryType = "blob";
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") page = JSON.parse(data);
    else draw(data);
  };
  socket.onclose = ({ code }) => {
    newest = null;
    if (code === 4404) {
      status.textContent = "The browser is closed, or this address is wrong.";
      return;
    }
    status.textContent = "The connection was lost. Connecting…";
    setTimeout(connect, RETRY_MS);
  };
}

async function draw(blob) {
  newest = blob;
  const whole = await createImageBitmap(blob);
  // Scaled down here, as the canvas would do it coarsely.
  const scale = Math.min(1, (innerWidth * devicePixelRatio) / whole.width, (innerHeight * devicePixelRatio) / whole.height);
  const width = Math.max(1, Math.floor(whole.width * scale));
  const height = Math.max(1, Math.floor(whole.height * scale));
  const picture = await createImageBitmap(whole, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
  whole.close();
  if (newest === blob) {
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      canvas.style.width = `${width / devicePixelRatio}px`;
    }
    context.drawImage(picture, 0, 0);
    status.textContent = "";
  }
  picture.close();
}

function send(message) {
  if (!isReadOnly && socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function modifiers(event) {
  return (event.altKey ? 1 : 0) | (event.ctrlKey ? 2 : 0) | (event.metaKey ? 4 : 0) | (event.shiftKey ? 8 : 0);
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return {
    x: Math.round(((event.clientX - box.left) / box.width) * page.width),
    y: Math.round(((event.clientY - box.top) / box.height) * page.height),
    modifiers: modifiers(event),
  };
}

function mouse(type, event) {
  const button = type === "mouseMoved" && !event.buttons ? "none" : (BUTTONS[event.button] ?? "none");
  send({ type, ...place(event), button, buttons: event.buttons, clickCount: type === "mouseMoved" ? 0 : event.detail || 1 });
}

function key(type, event) {
  // Characters of several keys, of input methods and of the clipboard come as text.
  const isPaste = event.key.toLowerCase() === "v" && (event.ctrlKey || event.metaKey) && !event.altKey;
  if (isPaste || event.isComposing || ["Dead", "Process", "Unidentified"].includes(event.key)) return;
  event.preventDefault();
  const isText = event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey;
  const text = isText ? event.key : event.key === "Enter" ? "\r" : "";
  send({ type, modifiers: modifiers(event), key: event.key, code: event.code, keyCode: event.keyCode, text });
}

function typed(event) {
  if (event.isComposing) return;
  if (keyboard.value) send({ type: "text", text: keyboard.value });
  keyboard.value = "";
}

if (!isReadOnly) {
  // The button may be released beside the picture.
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("mousemove", (event) => mouse("mouseMoved", event));
  canvas.addEventListener("mousedown", (event) => {
    event.preventDefault();
    keyboard.focus();
    mouse("mousePressed", event);
  });
  canvas.addEventListener("mouseup", (event) => mouse("mouseReleased", event));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      send({ type: "mouseWheel", ...place(event), deltaX: event.deltaX, deltaY: event.deltaY });
    },
    { passive: false },
  );
  keyboard.addEventListener("keydown", (event) => key("keyDown", event));
  keyboard.addEventListener("keyup", (event) => key("keyUp", event));
  keyboard.addEventListener("input", typed);
  keyboard.addEventListener("compositionend", typed);
  if (!isThumbnail) keyboard.focus();
}
addEventListener("resize", () => newest && draw(newest));
connect();
