/** The JavaScript client of a Voxtral worker. docs/protocol.md says what each message and option means. */

/** A tool that the model may call, in OpenAI's shape. */
export interface Tool {
  type: "function";
  function: { name: string; description?: string; parameters?: Record<string, unknown>; strict?: boolean };
}

/** The options of a session. Each may be left out; an older worker refuses those that it does not know by name. */
export interface Options {
  vad_sensitivity?: 0 | 1 | 2 | 3;
  temperature?: number;
  max_length?: number;
  top_p?: number;
  stop?: string | string[];
  seed?: number | null;
  mode?: "chat" | "transcribe";
  language?: string | null;
  system_prompt?: string | null;
  silence_ms?: number;
  sample_rate?: number;
  encoding?: "pcm_s16le" | "opus" | "mulaw" | "alaw";
  stream?: boolean;
  interim?: boolean;
  barge_in?: boolean;
  barge_in_ms?: number;
  turn_detection?: "silence" | "semantic";
  eagerness?: "low" | "medium" | "high" | "auto";
  reopen_ms?: number;
  transcript?: boolean;
  tools?: Tool[];
  tool_choice?: "auto" | "none" | "required" | { name: string };
  parallel_tool_calls?: boolean;
  tool_timeout_ms?: number;
  voice?: string | null;
  output_sample_rate?: number;
  output_encoding?: "pcm_s16le" | "mulaw" | "alaw" | "opus";
}

/** Where the connection is. `waiting`: it was lost or refused, and is tried again at `retryAt`. */
export type State = "off" | "connecting" | "open" | "waiting";

export interface StateEvent {
  state: State;
  /** Why: a code of the worker's, or of how the connection closed; empty where there is nothing to say. */
  code: string;
  /** The same for a person, as a sentence without a full stop. */
  reason: string;
  /** When it is tried again, in ms since 1970, while `waiting`. */
  retryAt: number | null;
  sessionId: string | null;
}

interface Base {
  /** Seconds since 1970 on the worker's clock. */
  timestamp?: number;
  seq?: number;
}

export interface TextDelta extends Base {
  type: "text_delta";
  text: string;
  turn_id: string;
  request_id?: string;
}

/** In ms; docs/protocol.md says from when to when. */
export interface Metrics {
  speech_ms: number;
  endpoint_ms: number;
  queue_ms: number;
  encode_ms: number;
  prefill_ms: number;
  first_token_ms: number;
  total_ms: number;
  tokens: number;
  cached_tokens: number;
  speculative: boolean;
}

export interface TextResponse extends Base {
  type: "text_response";
  text: string;
  turn_id: string;
  request_id?: string;
  source: "audio" | "text";
  finish_reason: "stop" | "length" | "interrupted" | "tool_calls";
  usage: { prompt_tokens: number; completion_tokens: number; cached_tokens: number };
  metrics: Metrics;
}

export interface TranscriptPartial extends Base {
  type: "transcript_partial";
  text: string;
  turn_id: string;
  /** So many characters never change any more. */
  stable_chars: number;
}

/** What the user said, whole. It comes again for a turn that was reopened. */
export interface Transcript extends Base {
  type: "transcript";
  text: string;
  turn_id: string;
  /** Why there are no words, where that is so. */
  error?: string;
  code?: string;
}

export interface Status extends Base {
  type: "status";
  /** `speech_started`, `processing` …; the statistics of `getStats()` come without one. */
  status?: string;
  turn_id?: string | null;
  request_id?: string;
  config?: Options;
  stats?: Record<string, unknown>;
  [field: string]: unknown;
}

export interface ErrorMessage extends Base {
  type: "error";
  error: string;
  code: string;
  turn_id?: string;
  request_id?: string;
  /** Seconds. */
  retry_after?: number;
}

export interface ToolCall extends Base {
  type: "tool_call";
  turn_id: string;
  call_id: string;
  name: string;
  arguments: Record<string, unknown>;
}

/** A piece of a spoken answer; its sound comes as a `sound` event, except when it is repeated. */
export interface Audio extends Base {
  type: "audio";
  turn_id: string;
  offset_ms: number;
  duration_ms: number;
  text: string;
  final?: boolean;
}

/** An `audio` message with its bytes. */
export interface Sound extends Audio {
  data: ArrayBuffer;
}

export interface Heartbeat extends Base {
  type: "heartbeat";
}

export interface ControlMessage extends Base {
  type: "control";
  control_type: "pong";
}

export type Message =
  | TextDelta
  | TextResponse
  | TranscriptPartial
  | Transcript
  | Status
  | ErrorMessage
  | ToolCall
  | Audio
  | Heartbeat
  | ControlMessage;

type ByType = { [M in Message as M["type"]]: M };

/** Every event and what its listeners get. */
export interface Events extends ByType {
  /** Every message of the worker. */
  message: Message;
  /** The sound of a piece of a spoken answer. */
  sound: Sound;
  /** The connection has changed. */
  state: StateEvent;
  /** A session has begun; `config` is what is in force where the worker says so. */
  session: { session_id: string; config?: Options };
  /** Something was put on the connection: a message, or so many bytes of audio. */
  sent: { type: string; bytes?: number; [field: string]: unknown };
  /** Audio was given while the connection was lost, for longer than is held (30 s). */
  lost: { bytes: number };
}

/** One session with a worker; it outlives lost connections without losing or doubling anything. */
export class Voxtral {
  /** `url` is a worker's, like http://localhost:8000. Throws a VoxtralError if it is not. */
  constructor(url: string | URL, settings?: { token?: string; config?: Options });

  /** The session's id at the worker; null before it is open. */
  readonly sessionId: string | null;
  readonly state: State;
  /** The options given so far. */
  readonly config: Options;
  /** An API key, a JWT or a session's token, for the calls and connections that follow. */
  set token(token: string);

  /** Call a listener at each event of a type; returns what takes it off again. */
  on<T extends keyof Events>(type: T, listener: (event: Events[T]) => void): () => void;

  /**
   * Open the session, or open it again at once. Resolves when it is open. Rejects with a VoxtralError when it is
   * refused for good; refusals that may pass, and lost connections, are tried again until `close`.
   */
  open(): Promise<void>;
  /** End the session, at the worker too. */
  close(): Promise<void>;

  /** Send audio, at most 1 MiB at a time: 16-bit mono PCM at 16 kHz, or as the options say. */
  sendAudio(chunk: ArrayBuffer | ArrayBufferView): void;
  /** Ask for an answer to a text; returns the `request_id` of the messages that answer it. */
  sendText(text: string, requestId?: string): string;
  /** The user's turn is over now, whatever the worker hears. */
  endTurn(): void;
  /** Stop the response being made. */
  cancel(): void;
  /** Forget what was said. */
  clearHistory(): void;
  /** Change options, all or none; an `error` that names the option comes back, or a `status`. */
  update(options: Options): void;
  /** Answer a `tool_call`. */
  sendToolResult(callId: string, content: unknown, settings?: { isError?: boolean }): void;
  /** Say how much of a spoken answer was heard before it was stopped. */
  played(turnId: string, playedMs: number): void;
  /** Ask for a `control` message `pong`; lost with the connection. */
  ping(): void;
  /** Ask for a `status` message with `stats`; lost with the connection. */
  getStats(): void;
  /** Let go of audio that could not be sent yet. */
  dropAudio(): void;

  /** The worker's `GET /session/{id}`. */
  session(): Promise<Record<string, unknown>>;
  /** The worker's `GET /health`, also while it loads. */
  health(): Promise<Record<string, unknown>>;
}

/** The microphone as 16-bit mono PCM at 16 kHz, in chunks of 128 ms. */
export class Microphone {
  constructor(listeners: {
    onChunk: (chunk: ArrayBuffer) => void;
    /** How loud each 32 ms are, from 0 to 1. */
    onLevel?: (level: number) => void;
    /** The microphone was unplugged, or the page lost its permission. */
    onLost?: () => void;
  });
  /** The microphones of this machine; they have names once the page may use one. */
  static devices(): Promise<{ deviceId: string; label: string }[]>;
  readonly isOn: boolean;
  /** While true, nothing is handed over. `start` sets it to false. */
  isPaused: boolean;
  /**
   * Rejects with a VoxtralError whose message is a sentence for the person; `code` is `BLOCKED`, `NOT_FOUND`,
   * `IN_USE`, `NOT_SECURE` or the browser's own name.
   */
  start(settings?: { deviceId?: string }): Promise<void>;
  /** Resolves when the last chunk has been handed over. */
  stop(): Promise<void>;
}

/** Plays the `sound` events of spoken answers one behind the other. */
export class Speaker {
  constructor(listeners?: {
    /** All that was given has been heard. */
    onEnd?: () => void;
  });
  readonly isPlaying: boolean;
  /** Browsers let a page make sound only after a click: call it in the click's handler. */
  start(): Promise<void>;
  /** The format is what the session's `output_sample_rate` and `output_encoding` say. */
  play(sound: Sound, format?: { sampleRate?: number; encoding?: string }): void;
  /** How much of a turn has been heard so far, in ms. */
  playedMs(turnId: string): number;
  /** Be silent, after a fade of 8 ms; returns how much of each turn was heard, for `Voxtral.played`. */
  stop(): { turnId: string; playedMs: number }[];
  close(): Promise<void>;
}

/** Brings samples from -1 to 1 of any rate to another, block by block. */
export class Resampler {
  constructor(inputRate: number, outputRate?: number);
  push(block: Float32Array): Float32Array;
}

/** Samples from -1 to 1 as 16-bit ones. */
export function toPcm16(samples: Float32Array): Int16Array;

/** What the worker, the way to it, or the microphone refused. */
export class VoxtralError extends Error {
  constructor(
    message: string,
    settings?: { code?: string; status?: number; retryAfterMs?: number; mayPass?: boolean },
  );
  code: string;
  /** The HTTP status, where a call was refused; else 0. */
  status: number;
  retryAfterMs: number;
  /** Whether a later try may succeed. */
  mayPass: boolean;
}
