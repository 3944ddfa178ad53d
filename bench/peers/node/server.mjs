// The original system's own stack: socket.io, and one INSERT a message, acknowledged after it. No login, no keys, no resume: it is
// what one writes first, and as fast as it can be.
//
//   node server.mjs DATABASE_URL      listens on a free port of 127.0.0.1 and prints it
import { createServer } from "node:http";
import mysql from "mysql2/promise";
import { Server } from "socket.io";

const CONNECTIONS = 32;
const INSERT = "INSERT INTO messages (sender_id, reciver_id, sent_at, data) VALUES (?, ?, ?, ?)";

const pool = mysql.createPool({ uri: process.argv[2], connectionLimit: CONNECTIONS });
const http = createServer();
const io = new Server(http);

io.use((socket, next) => {
  socket.data.user = socket.handshake.auth.user_id;
  next();
});

io.on("connection", (socket) => {
  const { user } = socket.data;
  socket.join(user);
  socket.on("send", async ({ receiver_id, text }, acknowledge) => {
    const sent_at = Math.floor(Date.now() / 1000);
    const [inserted] = await pool.execute(INSERT, [user, receiver_id, sent_at, Buffer.from(text)]);
    const message = { _id: inserted.insertId, sender_id: user, receiver_id, sent_at, text };
    io.to(user).to(receiver_id).emit("event", { message });
    acknowledge({ result: message });
  });
});

http.listen(0, "127.0.0.1", () => console.log(http.address().port));
