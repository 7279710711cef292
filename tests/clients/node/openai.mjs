// One check of the package `openai`: node openai.mjs CHECK URL. Prints the result as JSON.
import OpenAI from "openai";
import { LONG, SCHEMA, SUM, TOOLS, WEATHER, failure, run } from "./questions.mjs";

const ask = (content) => [{ role: "user", content }];
const tokens = ({ prompt_tokens, completion_tokens }) => [prompt_tokens, completion_tokens];
const call = ({ finish_reason, message: { tool_calls } }) =>
  ({ name: tool_calls[0].function.name, arguments: JSON.parse(tool_calls[0].function.arguments), finish: finish_reason });
const answer = ({ output_text, status, usage: { input_tokens, output_tokens } }) =>
  ({ text: output_text, finish: status, tokens: [input_tokens, output_tokens] });
const format = { type: "json_schema", json_schema: { name: "call", schema: SCHEMA, strict: true } };

await run((client) => ({
  chat: async () => {
    const reply = await client.chat.completions.create({ model: "math", messages: ask(SUM), temperature: 0 });
    return { text: reply.choices[0].message.content, finish: reply.choices[0].finish_reason, tokens: tokens(reply.usage) };
  },
  stream: async () => {
    let text = "";
    let finish, used;
    const body = { model: "math", messages: ask(SUM), temperature: 0, stream: true, stream_options: { include_usage: true } };
    for await (const part of await client.chat.completions.create(body)) {
      text += part.choices[0]?.delta?.content ?? "";
      finish = part.choices[0]?.finish_reason ?? finish;
      used = part.usage ?? used;
    }
    return { text, finish, tokens: tokens(used) };
  },
  tool_call: async () => {
    const body = { model: "tool", messages: ask(WEATHER), temperature: 0, tools: TOOLS };
    return call((await client.chat.completions.create(body)).choices[0]);
  },
  tool_call_streamed: async () => {
    const body = { model: "tool", messages: ask(WEATHER), temperature: 0, tools: TOOLS };
    return call((await client.chat.completions.stream(body).finalChatCompletion()).choices[0]);
  },
  structured_output: async () => {
    const body = { model: "tool", messages: ask(WEATHER), temperature: 0, response_format: format };
    return JSON.parse((await client.chat.completions.create(body)).choices[0].message.content);
  },
  overflow: () => failure(client.chat.completions.create({ model: "math", messages: ask(LONG) })),
  error_text: () => failure(client.chat.completions.create({ model: "gpt-4", messages: ask(SUM) })),
  responses: async () => answer(await client.responses.create({ model: "math", input: SUM, temperature: 0 })),
  responses_streamed: async () =>
    answer(await client.responses.stream({ model: "math", input: SUM, temperature: 0 }).finalResponse()),
}), (baseURL) => new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 }));
