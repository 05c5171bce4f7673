// The live view: draws the pictures of a browser's active page, and sends it the reader's clicks and keys.
"use strict";

const canvas = document.getElementById("picture");
const status = document.getElementById("status");
const context = canvas.getContext("2d");
const query = new URLSearchParams(location.search);
const isReadOnly = query.get("readOnly") === "true";
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
      status.textContent = "The browser is closed.";
      return;
    }
    status.textContent = "The connection was lost. Connecting…";
    setTimeout(connect, RETRY_MS);
  };
}

async function draw(blob) {
  newest = blob;
  const picture = await createImageBitmap(blob);
  if (newest === blob) {
    if (canvas.width !== picture.width || canvas.height !== picture.height) {
      canvas.width = picture.width;
      canvas.height = picture.height;
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
  event.preventDefault();
  const isText = event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey;
  const text = isText ? event.key : event.key === "Enter" ? "\r" : "";
  send({ type, modifiers: modifiers(event), key: event.key, code: event.code, keyCode: event.keyCode, text });
}

if (!isReadOnly) {
  canvas.addEventListener("mousemove", (event) => mouse("mouseMoved", event));
  canvas.addEventListener("mousedown", (event) => {
    canvas.focus();
    event.preventDefault();
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
  canvas.addEventListener("keydown", (event) => key("keyDown", event));
  canvas.addEventListener("keyup", (event) => key("keyUp", event));
}
connect();
