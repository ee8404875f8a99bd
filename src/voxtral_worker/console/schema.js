// The options of a session as the worker describes them, each as what a form needs to know.

// The page sends what its microphone gives and plays what the worker says by default.
const OWN = new Set(["sample_rate", "encoding", "output_sample_rate", "output_encoding", "tools"]);

/** Option → { kind, choices, low, high, most, isNullable, initial, description }. */
export async function readOptions() {
  const response = await fetch("/openapi.json", { cache: "no-store" });
  if (!response.ok) throw new Error(`/openapi.json answered ${response.status}`);
  const { components } = await response.json();
  return optionsOf(components.schemas.SessionConfig, components.schemas);
}

export function optionsOf(config, schemas = {}) {
  const options = new Map();
  for (const [name, schema] of Object.entries(config.properties)) {
    const option = optionOf(schema, schemas);
    if (option && !OWN.has(name)) options.set(name, option);
  }
  return { options, hasTools: "tools" in config.properties };
}

function optionOf(schema, schemas) {
  const forms = formsOf(schema, schemas);
  // Null is the same as missing for every option; it is a value where it is the default.
  const isNullable = "default" in schema
    ? schema.default === null
    : forms.some((form) => form.type === "null");
  const described = { description: schema.description ?? "", isNullable };
  const option = kindOf(forms.filter((form) => form.type !== "null"));
  if (!option) return null;
  const initial = "default" in schema ? schema.default : firstOf(option);
  return { ...described, ...option, initial };
}

// Every way in which a value may be good: `anyOf`, several types and `null` in an enum taken apart.
function formsOf(schema, schemas) {
  if (schema.$ref) return formsOf(schemas[schema.$ref.split("/").at(-1)] ?? {}, schemas);
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return several.flatMap((each) => formsOf(each, schemas));
  if (schema.enum || "const" in schema) {
    const values = schema.enum ?? [schema.const];
    const known = values.filter((value) => value !== null);
    const forms = known.length ? [{ type: "choice", choices: known }] : [];
    return values.includes(null) ? [...forms, { type: "null" }] : forms;
  }
  const types = [schema.type].flat();
  return types.map((type) => ({ ...schema, type }));
}

function kindOf(forms) {
  const of = (type) => forms.find((form) => form.type === type);
  const choices = forms.filter((form) => form.type === "choice").flatMap((form) => form.choices);
  if (choices.length && choices.every((choice) => typeof choice === "string")) {
    // Beside the choices there may be other texts, or objects, that a list cannot offer.
    return { kind: "choice", choices };
  }
  if (of("array")?.items?.type === "string") return { kind: "lines", most: of("array").maxItems };
  if (of("boolean")) return { kind: "flag" };
  const number = of("integer") ?? of("number");
  if (number) {
    const { type, minimum: low, maximum: high } = number;
    return { kind: "number", isWhole: type === "integer", low, high };
  }
  if (of("string")) return { kind: "text", most: of("string").maxLength };
  return null;
}

function firstOf({ kind, choices, low, isNullable }) {
  if (isNullable) return null;
  return { choice: choices?.[0], flag: false, number: low ?? 0, text: "", lines: [] }[kind];
}
