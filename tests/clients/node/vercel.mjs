// One check of the Vercel AI SDK: node vercel.mjs CHECK URL. Prints the result as JSON.
// `@ai-sdk/openai` starts at /v1/responses; `@ai-sdk/openai-compatible` at /v1/chat/completions.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, jsonSchema, streamText, tool } from "ai";
import { LONG, PLACE, SCHEMA, SUM, WEATHER, failure, run } from "./questions.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const tools = { weather: tool({ description: "weather", inputSchema: jsonSchema(PLACE) }) };
const common = { temperature: 0, maxRetries: 0, maxOutputTokens: 200 };
const call = ([found], finish) => ({ name: found.toolName, arguments: found.input, finish: finish.replace("-", "_") });
const tokens = ({ inputTokens, outputTokens }) => [inputTokens, outputTokens];

function checks(model) {
  return {
    chat: async () => {
      const { text, finishReason, usage } = await generateText({ ...common, model: model("math"), prompt: SUM });
      return { text, finish: finishReason, tokens: tokens(usage) };
    },
    stream: async () => {
      let text = "";
      const reply = streamText({ ...common, model: model("math"), prompt: SUM });
      for await (const part of reply.textStream) text += part;
      return { text, finish: await reply.finishReason, tokens: tokens(await reply.usage) };
    },
    tool_call: async () => {
      const { toolCalls, finishReason } = await generateText({ ...common, model: model("tool"), prompt: WEATHER, tools });
      return call(toolCalls, finishReason);
    },
    tool_call_streamed: async () => {
      const reply = streamText({ ...common, model: model("tool"), prompt: WEATHER, tools });
      return call(await reply.toolCalls, await reply.finishReason);
    },
    structured_output: async () => {
      const output = Output.object({ schema: jsonSchema(SCHEMA) });
      return (await generateText({ ...common, model: model("tool"), prompt: WEATHER, output })).output;
    },
    overflow: () => failure(generateText({ ...common, model: model("math"), prompt: LONG })),
    error_text: () => failure(generateText({ ...common, model: model("gpt-4"), prompt: SUM })),
  };
}

const named = (prefix, found) =>
  Object.fromEntries(Object.entries(found).map(([name, check]) => [`${prefix}_${name}`, check]));
await run(({ openai, compatible }) => ({
  ...named("chat", checks(compatible)),
  ...named("responses", checks(openai)),
}), (baseURL) => ({
  openai: createOpenAI({ baseURL, apiKey: "none" }),
  compatible: createOpenAICompatible({ name: "sun", baseURL, apiKey: "none", includeUsage: true, supportsStructuredOutputs: true }),
}));
