// One check of the package `openai`: node openai.mjs CHECK URL. Prints the result as JSON.
import OpenAI from "openai";
import { LONG, SCHEMA, SUM, TOOLS, WEATHER, failure, run } from "./questions.mjs";

const ask = (content) => [{ role: "user", content }];
const format = { type: "json_schema", json_schema: { name: "call", schema: SCHEMA, strict: true } };

await run((client) => ({
  chat: async () => {
    const reply = await client.chat.completions.create({ model: "math", messages: ask(SUM), temperature: 0 });
    return reply.choices[0].message.content;
  },
  stream: async () => {
    let text = "";
    const parts = await client.chat.completions.create({ model: "math", messages: ask(SUM), temperature: 0, stream: true });
    for await (const part of parts) text += part.choices[0]?.delta?.content ?? "";
    return text;
  },
  tool_call: async () => {
    const body = { model: "tool", messages: ask(WEATHER), temperature: 0, tools: TOOLS };
    const { name, arguments: given } = (await client.chat.completions.create(body)).choices[0].message.tool_calls[0].function;
    return { name, arguments: JSON.parse(given) };
  },
  tool_call_streamed: async () => {
    const body = { model: "tool", messages: ask(WEATHER), temperature: 0, tools: TOOLS };
    const reply = await client.chat.completions.stream(body).finalChatCompletion();
    const { name, arguments: given } = reply.choices[0].message.tool_calls[0].function;
    return { name, arguments: JSON.parse(given) };
  },
  structured_output: async () => {
    const body = { model: "tool", messages: ask(WEATHER), temperature: 0, response_format: format };
    return JSON.parse((await client.chat.completions.create(body)).choices[0].message.content);
  },
  overflow: () => failure(client.chat.completions.create({ model: "math", messages: ask(LONG) })),
  error_text: () => failure(client.chat.completions.create({ model: "gpt-4", messages: ask(SUM) })),
  responses: async () => (await client.responses.create({ model: "math", input: SUM, temperature: 0 })).output_text,
  responses_streamed: async () =>
    (await client.responses.stream({ model: "math", input: SUM, temperature: 0 }).finalResponse()).output_text,
}), (baseURL) => new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 }));
