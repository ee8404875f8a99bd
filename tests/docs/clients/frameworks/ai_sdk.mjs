// Chat by the AI SDK; the base URL is ours.
//
//   node ai_sdk.mjs BASE_URL
import { createOpenAI } from '@ai-sdk/openai';
import { generateText, streamText } from 'ai';

const openai = createOpenAI({ baseURL: process.argv[2], apiKey: 'none' });
// openai.chat(…) is the chat call, openai(…) the Responses API; that one has no seed.
const chat = { seed: 7, stopSequences: ['zebra'] };
for (const [model, more] of [[openai.chat('voxtral-tiny'), chat], [openai('voxtral-tiny'), {}]]) {
  const asked = { model, prompt: 'Hello, how are you?', temperature: 0, ...more };
  const { text } = await generateText(asked);
  let streamed = '';
  for await (const piece of streamText(asked).textStream) streamed += piece;
  console.log(text, '|', streamed);
}
