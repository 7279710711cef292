// One check of the Vercel AI SDK: node vercel.mjs CHECK URL. Prints the result as JSON.
// `@ai-sdk/openai` starts at /v1/responses; `@ai-sdk/openai-compatible` at /v1/chat/completions.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, jsonSchema, streamText, tool } from "ai";
import { LONG, PLACE, SCHEMA, SUM, WEATHER, failure, run } from "./questions.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const tools = { weather: tool({ description: "weather", inputSchema: jsonSchema(PLACE) }) };
const common = { temperature: 0, maxRetries: 0, maxOutputTokens: 200 };
const calls = (found) => ({ name: found[0].toolName, arguments: found[0].input });

function checks(model) {
  return {
    chat: async () => (await generateText({ ...common, model: model("math"), prompt: SUM })).text,
    stream: async () => {
      let text = "";
      for await (const part of streamText({ ...common, model: model("math"), prompt: SUM }).textStream) text += part;
      return text;
    },
    tool_call: async () => calls((await generateText({ ...common, model: model("tool"), prompt: WEATHER, tools })).toolCalls),
    tool_call_streamed: async () =>
      calls(await streamText({ ...common, model: model("tool"), prompt: WEATHER, tools }).toolCalls),
    structured_output: async () => {
      const output = Output.object({ schema: jsonSchema(SCHEMA) });
      return (await generateText({ ...common, model: model("tool"), prompt: WEATHER, output })).output;
    },
    overflow: () => failure(generateText({ ...common, model: model("math"), prompt: LONG })),
    error_text: () => failure(generateText({ ...common, model: model("gpt-4"), prompt: SUM })),
  };
}

await run(({ openai, compatible }) => ({
  ...checks(compatible),
  ...Object.fromEntries(Object.entries(checks(openai)).map(([name, check]) => [`responses_${name}`, check])),
}), (baseURL) => ({
  openai: createOpenAI({ baseURL, apiKey: "none" }),
  compatible: createOpenAICompatible({ name: "sun", baseURL, apiKey: "none", supportsStructuredOutputs: true }),
}));
