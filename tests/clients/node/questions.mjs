// Questions to the demo's tasks, as in `questions.py`, and how a check is run.
export const SUM = "take 3, times 9, add 4, mod 10?";
export const WEATHER = "how is the weather in berlin today?";
export const LONG = "take 3, times 9, ".repeat(1000);

const object = (properties) =>
  ({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });
export const PLACE = object({ city: { type: "string" }, day: { type: "string" } });
export const SCHEMA = object({ name: { type: "string", enum: ["weather"] }, arguments: PLACE });
export const TOOLS = [{ type: "function", function: { name: "weather", description: "weather", parameters: PLACE } }];

/** Return what a user sees of the error that a promise rejects with. */
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return { message: error.message, status: error.status ?? error.statusCode };
  }
  return { message: "no error" };
}

/** Run the check that the command line names, and print its result. */
export async function run(checks, connect) {
  const [check, url] = process.argv.slice(2);
  console.log(JSON.stringify(await checks(connect(url))[check]()));
}
