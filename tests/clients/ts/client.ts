// Streams one answer, from the .proto files alone. Usage: client.js PROTO_DIR HOST:PORT PROMPT
import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";

interface StreamMessage {
  event?: "started" | "block_appended" | "block_snapshot" | "block_edits" | "finished";
  block_appended?: { text: string };
  finished?: { finish_reason: string };
}

interface GenerationClient extends grpc.Client {
  StreamGenerate(request: object, options: grpc.CallOptions): grpc.ClientReadableStream<StreamMessage>;
}

type ClientConstructor = new (address: string, credentials: grpc.ChannelCredentials) => GenerationClient;

function generationClient(protoDir: string, address: string): GenerationClient {
  const definition = loader.loadSync("pydllm/v1/generation_service.proto", {
    includeDirs: [protoDir],
    keepCase: true,
    enums: String,
    longs: String,
    oneofs: true,
  });
  const root = grpc.loadPackageDefinition(definition) as unknown as {
    pydllm: { v1: { GenerationService: ClientConstructor } };
  };
  return new root.pydllm.v1.GenerationService(address, grpc.credentials.createInsecure());
}

async function stream(client: GenerationClient, prompt: string): Promise<string> {
  const request = { request: { chat: { messages: [{ role: "user", content: prompt }] } } };
  let text = "";
  let reason = "";
  for await (const message of client.StreamGenerate(request, { deadline: Date.now() + 60_000 })) {
    const { event, block_appended, finished } = message as StreamMessage;
    if (event === "block_appended") text += block_appended!.text;
    if (event === "finished") reason = finished!.finish_reason;
  }
  if (reason === "") throw new Error("the stream ended without `finished`");
  return text;
}

async function main(): Promise<void> {
  const [protoDir, address, prompt] = process.argv.slice(2);
  const client = generationClient(protoDir, address);
  try {
    console.log(await stream(client, prompt));
  } finally {
    client.close();
  }
}

main().catch((error: Error) => {
  console.error(error.message);
  process.exitCode = 1;
});
