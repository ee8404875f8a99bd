// A live conversation by @openai/agents-realtime with its defaults; the address is ours.
//
//   node agents.mjs BASE_URL CLIP.pcm     (16-bit samples of 24 kHz)
import { readFileSync } from 'node:fs';
import { RealtimeAgent, RealtimeSession, OpenAIRealtimeWebSocket } from '@openai/agents-realtime';

const [base, clip] = process.argv.slice(2);
const url = base.replace('http', 'ws') + '/realtime?model=gpt-realtime';
const agent = new RealtimeAgent({ name: 'lamp', instructions: 'Be kind.' });
const session = new RealtimeSession(agent, { transport: new OpenAIRealtimeWebSocket({ url }) });
session.on('error', (error) => { console.log('error', JSON.stringify(error)); process.exit(1); });
let turns = 0;
session.transport.on('*', (event) => {
  if (event.type !== 'response.done') return;
  turns += 1;
  // The answer is spoken where the worker has a voice.
  const { text, transcript } = event.response.output[0].content[0];
  console.log(event.response.status, text ?? transcript);
  if (turns === 2) process.exit(0);
  const sound = readFileSync(clip);
  for (let at = 0; at < sound.length; at += 4800) {
    session.sendAudio(new Uint8Array(sound.subarray(at, at + 4800)).buffer);
  }
});
await session.connect({ apiKey: 'none', url });
session.sendMessage('Hello, how are you?');
setTimeout(() => process.exit(2), 60000);
