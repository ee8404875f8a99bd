// The same session as a program: Python, JavaScript and curl with the options that were chosen.

const KEY_NAME = "VOXTRAL_API_KEY";

export function codeOf(language, { url, chosen, hasKey }) {
  return { python, javascript, curl }[language](url, chosen, hasKey);
}

function python(url, chosen, hasKey) {
  const options = Object.entries(chosen).map(([name, value]) => `${name}=${literal(value)}`);
  if (hasKey) options.unshift(`token=os.environ["${KEY_NAME}"]`);
  const given = [JSON.stringify(url), ...options];
  const onOneLine = `Voxtral(${given.join(", ")})`;
  const call = onOneLine.length < 76 ? onOneLine : `Voxtral(\n    ${given.join(",\n    ")},\n)`;
  return `${hasKey ? "import os\n\n" : ""}from voxtral_worker.client import Response, Voxtral

with ${call} as voxtral:
    request_id = voxtral.send_text("hello")
    for event in voxtral.events():
        if isinstance(event, Response) and event.request_id == request_id:
            print(event.text)
            break
`;
}

function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  return JSON.stringify(value);
}

function javascript(url, chosen, hasKey) {
  const settings = {};
  if (hasKey) settings.token = "your key";
  if (Object.keys(chosen).length) settings.config = chosen;
  const given = Object.keys(settings).length ? `, ${JSON.stringify(settings, null, 2)}` : "";
  return `import { Voxtral } from ${JSON.stringify(`${url}/client/voxtral.js`)};

const voxtral = new Voxtral(${JSON.stringify(url)}${given});
voxtral.on("text_response", ({ text }) => console.log(text));
voxtral.sendText("hello");
await voxtral.open();
`;
}

function curl(url, chosen, hasKey) {
  const body = JSON.stringify({ config: chosen }).replaceAll("'", "'\\''");
  const key = hasKey ? ` \\\n  -H "Authorization: Bearer $${KEY_NAME}"` : "";
  return `# Opens a session; its websocket_url takes audio and texts.
curl ${url}/session/create${key} \\
  -H 'Content-Type: application/json' \\
  -d '${body}'
`;
}
