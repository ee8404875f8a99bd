// The calls before and beside a session's connection.

/** What the worker, or the way to it, refused; `mayPass` says whether a later try may succeed. */
export class VoxtralError extends Error {
  constructor(message, { code = "", status = 0, retryAfterMs = 0, mayPass = false } = {}) {
    super(message);
    this.name = "VoxtralError";
    this.code = code;
    this.status = status;
    this.retryAfterMs = retryAfterMs;
    this.mayPass = mayPass;
  }
}

const CALL_LIMIT_MS = 30000;

export class Rest {
  constructor(url, token) {
    this.url = new URL(url);
    if (!/^https?:$/.test(this.url.protocol)) {
      throw new VoxtralError(`the worker's address is ${url}, but must begin with http:// or https://`);
    }
    this.token = token;
  }

  /** The JSON of an answer. Rejects with a VoxtralError. */
  async call(method, path, body) {
    const response = await this.#fetch(method, path, body);
    const answer = await response.json().catch(() => ({}));
    if (response.ok) return answer;
    const { status } = response;
    throw new VoxtralError(answer.error ?? `the worker answered ${status}`, {
      code: answer.code ?? "",
      status,
      retryAfterMs: 1000 * Number(response.headers.get("Retry-After")),
      mayPass: status === 429 || status >= 500,
    });
  }

  /** `GET /health`: a worker that loads or drains tells its state with another status than 200. */
  async health() {
    const response = await this.#fetch("GET", "/health");
    const answer = await response.json().catch(() => ({}));
    if (answer.status !== undefined) return answer;
    throw new VoxtralError(answer.error ?? `the worker answered ${response.status}`, {
      code: answer.code ?? "",
      status: response.status,
      mayPass: response.status === 429 || response.status >= 500,
    });
  }

  #fetch(method, path, body) {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const options = { method, headers, cache: "no-store", signal: AbortSignal.timeout(CALL_LIMIT_MS) };
    if (body !== undefined) options.body = JSON.stringify(body);
    return fetch(new URL(path, this.url), options).catch((error) => {
      const why = error.name === "TimeoutError" ? "does not answer" : "cannot be reached";
      throw new VoxtralError(`the worker ${why}`, { mayPass: true });
    });
  }
}
