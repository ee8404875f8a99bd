// The conversation as a file.

export function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

export function asJson(turns, about) {
  return `${JSON.stringify({ ...about, turns }, null, 2)}\n`;
}

export function asText(turns) {
  const lines = turns.flatMap(({ said, answer, calls, error }) => [
    `You: ${said || "(spoken)"}`,
    ...calls.map(({ name, arguments: given }) => `Called: ${name} ${JSON.stringify(given)}`),
    ...(answer ? [`Voxtral: ${answer}`] : []),
    ...(error ? [`Error: ${error.error}`] : []),
    "",
  ]);
  return lines.join("\n");
}
