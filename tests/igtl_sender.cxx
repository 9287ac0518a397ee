// Sends a test picture and a transform over OpenIGTLink, with the protocol's own C++ library:
//     igtl_sender server|client PORT KIND COUNT
// KIND: grey, rgb, grey16. Picture n has value (31 n + 7 row + 3 column + 50 component) modulo 256
// (times 257 for 16 bits) in 6 rows of 10 columns; its time stamp is n + 0.25 s after 1.7e9.

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>

#include "igtlClientSocket.h"
#include "igtlImageMessage.h"
#include "igtlOSUtil.h"
#include "igtlServerSocket.h"
#include "igtlTimeStamp.h"
#include "igtlTransformMessage.h"

static const int kRows = 6, kColumns = 10;
static const unsigned kSeconds = 1700000000u;

static igtl::TimeStamp::Pointer stamp(int n) {
  igtl::TimeStamp::Pointer ts = igtl::TimeStamp::New();
  ts->SetTime(kSeconds + n, 250000000u);
  return ts;
}

static void fill(igtl::ImageMessage::Pointer& msg, int n, int components, bool wide) {
  unsigned char* bytes = static_cast<unsigned char*>(msg->GetScalarPointer());
  unsigned short* words = static_cast<unsigned short*>(msg->GetScalarPointer());
  size_t at = 0;
  for (int row = 0; row < kRows; row++)
    for (int column = 0; column < kColumns; column++)
      for (int component = 0; component < components; component++, at++) {
        int value = (31 * n + 7 * row + 3 * column + 50 * component) % 256;
        if (wide)
          words[at] = static_cast<unsigned short>(value * 257);
        else
          bytes[at] = static_cast<unsigned char>(value);
      }
}

static bool send_picture(igtl::Socket* peer, int n, const std::string& kind) {
  int size[] = {kColumns, kRows, 1}, offset[] = {0, 0, 0};
  float spacing[] = {0.5f, 0.25f, 1.0f};
  const int components = kind == "rgb" ? 3 : 1;
  const bool wide = kind == "grey16";
  igtl::ImageMessage::Pointer msg = igtl::ImageMessage::New();
  msg->SetDimensions(size);
  msg->SetSpacing(spacing);
  msg->SetScalarType(wide ? igtl::ImageMessage::TYPE_UINT16 : igtl::ImageMessage::TYPE_UINT8);
  msg->SetNumComponents(components);
  msg->SetEndian(igtl::ImageMessage::ENDIAN_LITTLE);
  msg->SetDeviceName("Image");
  msg->SetSubVolume(size, offset);
  msg->AllocateScalars();
  fill(msg, n, components, wide);
  igtl::Matrix4x4 matrix;
  igtl::IdentityMatrix(matrix);
  matrix[0][0] = 0, matrix[1][0] = 1;  // columns run along y, rows along -x
  matrix[0][1] = -1, matrix[1][1] = 0;
  matrix[0][3] = 10, matrix[1][3] = 20, matrix[2][3] = 30;
  msg->SetMatrix(matrix);
  igtl::TimeStamp::Pointer when = stamp(n);
  msg->SetTimeStamp(when);
  msg->Pack();
  return peer->Send(msg->GetPackPointer(), msg->GetPackSize()) != 0;
}

static bool send_tool(igtl::Socket* peer, int n) {
  igtl::TransformMessage::Pointer msg = igtl::TransformMessage::New();
  msg->SetDeviceName("Tool");
  igtl::Matrix4x4 matrix;
  igtl::IdentityMatrix(matrix);
  matrix[2][3] = static_cast<float>(n);
  msg->SetMatrix(matrix);
  igtl::TimeStamp::Pointer when = stamp(n);
  msg->SetTimeStamp(when);
  msg->Pack();
  return peer->Send(msg->GetPackPointer(), msg->GetPackSize()) != 0;
}

static void send_all(igtl::Socket* peer, const std::string& kind, int count) {
  for (int n = 0; n < count; n++) {
    if (!send_picture(peer, n, kind) || !send_tool(peer, n)) return;
    igtl::Sleep(20);
  }
}

int main(int argc, char* argv[]) {
  if (argc != 5) return 2;
  const std::string kind = argv[3];
  const int port = std::atoi(argv[2]), count = std::atoi(argv[4]);
  if (!std::strcmp(argv[1], "client")) {
    igtl::ClientSocket::Pointer peer = igtl::ClientSocket::New();
    if (peer->ConnectToServer("127.0.0.1", port) != 0) return 1;
    send_all(peer, kind, count);
    peer->CloseSocket();
    return 0;
  }
  igtl::ServerSocket::Pointer server = igtl::ServerSocket::New();
  if (server->CreateServer(port) < 0) return 1;
  for (;;) {
    igtl::Socket::Pointer peer = server->WaitForConnection(1000).GetPointer();
    if (peer.IsNull()) continue;
    send_all(peer, kind, count);
    peer->CloseSocket();
  }
}
