// How things are written. Pure.

/** Return a duration such as "40 ms", "0.4 s", "12 s" or "1 m 05 s"; parts of a second only of what has ended. */
export function duration(milliseconds, hasEnded) {
  const seconds = Math.max(0, milliseconds) / 1000;
  if (hasEnded && seconds < 0.1) return `${Math.round(milliseconds)} ms`;
  if (seconds < 60) return `${hasEnded ? seconds.toFixed(1) : Math.floor(seconds)} s`;
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} m`;
}

/** Return the local time of day; with the date unless it is today. */
export function moment(timestamp) {
  const date = new Date(timestamp);
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString("en-CA")} ${time}`;
}

const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|[^\s{}[\],:"]+|[{}[\],:]/g;

/** Maximum characters of a text that is formatted. */
const MAX_FORMATTED = 1_000_000;

/**
 * Return JSON with indentation; null if the text is not JSON, or too long to be formatted at once.
 *
 * Works on the text: JSON.parse would round large numbers and merge keys that occur twice.
 */
export function prettyJson(text) {
  if (text.length > MAX_FORMATTED) return null;
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  const tokens = text.match(TOKEN);
  const pieces = [];
  let depth = 0;
  const breakLine = () => pieces.push("\n", "  ".repeat(Math.min(depth, 40)));
  tokens.forEach((token, index) => {
    if (token === "{" || token === "[") {
      pieces.push(token);
      depth += 1;
      if (!"}]".includes(tokens[index + 1])) breakLine();
    } else if (token === "}" || token === "]") {
      depth -= 1;
      if (!"{[".includes(tokens[index - 1])) breakLine();
      pieces.push(token);
    } else if (token === ",") {
      pieces.push(token);
      breakLine();
    } else if (token === ":") {
      pieces.push(": ");
    } else {
      // "caf\u00e9" is easier to read as "café".
      pieces.push(token[0] === '"' ? JSON.stringify(JSON.parse(token)) : token);
    }
  });
  return pieces.join("");
}
