// Receives over OpenIGTLink, as a client, with the protocol's own C++ library:
//     igtl_receiver PORT COUNT [PAUSE_MS]
// It knows version 1 of the header. It checks every check sum and prints a line for each message until COUNT images came:
//     IMAGE device seconds.fraction columns rows slices type components x y z m00 .. m23 fnv
//     POINT device seconds.fraction count {name group x y z owner}
//     STATUS device code name
//     BAD what
// The fnv is the 32-bit FNV-1a sum of the pixels. Pauses after each image.

#include <cstdio>
#include <cstdlib>
#include <string>

#include "igtlClientSocket.h"
#include "igtlImageMessage.h"
#include "igtlMessageHeader.h"
#include "igtlOSUtil.h"
#include "igtlPointMessage.h"
#include "igtlStatusMessage.h"

static bool whole(igtl::Socket* peer, void* to, size_t bytes) {
  bool late = false;
  return peer->Receive(to, bytes, late) == bytes;
}

static void stamp(igtl::MessageBase* message) {
  igtl::TimeStamp::Pointer ts = igtl::TimeStamp::New();
  message->GetTimeStamp(ts);
  std::printf("%s %u.%09u", message->GetDeviceName(), ts->GetSecond(), ts->GetNanosecond());
}

static void image(igtl::ImageMessage* msg) {
  int columns, rows, slices;
  float x, y, z;
  msg->GetDimensions(columns, rows, slices);
  msg->GetSpacing(x, y, z);
  igtl::Matrix4x4 matrix;
  msg->GetMatrix(matrix);
  std::printf("IMAGE ");
  stamp(msg);
  std::printf(" %d %d %d %d %d %.9g %.9g %.9g", columns, rows, slices, msg->GetScalarType(),
              msg->GetNumComponents(), x, y, z);
  for (int row = 0; row < 3; row++)
    for (int column = 0; column < 4; column++) std::printf(" %.9g", matrix[row][column]);
  unsigned int sum = 2166136261u;
  const unsigned char* pixels = static_cast<unsigned char*>(msg->GetScalarPointer());
  for (size_t at = 0; at < (size_t)columns * rows; at++) sum = (sum ^ pixels[at]) * 16777619u;
  std::printf(" %u\n", sum);
}

static void points(igtl::PointMessage* msg) {
  std::printf("POINT ");
  stamp(msg);
  std::printf(" %d", msg->GetNumberOfPointElement());
  for (int at = 0; at < msg->GetNumberOfPointElement(); at++) {
    igtl::PointElement::Pointer point;
    msg->GetPointElement(at, point);
    float x, y, z;
    point->GetPosition(x, y, z);
    std::printf(" %s %s %.9g %.9g %.9g %s", point->GetName(), point->GetGroupName(), x, y, z,
                point->GetOwner());
  }
  std::printf("\n");
}

template <class Message>
static typename Message::Pointer body(igtl::Socket* peer, igtl::MessageHeader* header) {
  typename Message::Pointer msg = Message::New();
  msg->SetMessageHeader(header);
  msg->AllocatePack();
  if (msg->GetPackBodySize() && !whole(peer, msg->GetPackBodyPointer(), msg->GetPackBodySize()))
    return NULL;
  if (msg->GetPackBodySize() && !(msg->Unpack(1) & igtl::MessageHeader::UNPACK_BODY))
    std::printf("BAD check sum\n");
  return msg;
}

int main(int argc, char* argv[]) {
  if (argc < 3) return 2;
  const int count = std::atoi(argv[2]), pause_ms = argc > 3 ? std::atoi(argv[3]) : 0;
  igtl::ClientSocket::Pointer peer = igtl::ClientSocket::New();
  if (peer->ConnectToServer("127.0.0.1", std::atoi(argv[1])) != 0) return 1;
  for (int seen = 0; seen < count;) {
    igtl::MessageHeader::Pointer header = igtl::MessageHeader::New();
    header->InitPack();
    if (!whole(peer, header->GetPackPointer(), header->GetPackSize())) return 3;
    header->Unpack();
    const std::string type = header->GetDeviceType();
    if (type == "IMAGE") {
      igtl::ImageMessage::Pointer msg = body<igtl::ImageMessage>(peer, header);
      if (msg.IsNull()) return 3;
      image(msg);
      seen++;
      if (pause_ms) igtl::Sleep(pause_ms);
    } else if (type == "POINT") {
      igtl::PointMessage::Pointer msg = body<igtl::PointMessage>(peer, header);
      if (msg.IsNull()) return 3;
      points(msg);
    } else if (type == "STATUS") {
      igtl::StatusMessage::Pointer msg = body<igtl::StatusMessage>(peer, header);
      if (msg.IsNull()) return 3;
      std::printf("STATUS %s %d %s\n", msg->GetDeviceName(), msg->GetCode(), msg->GetErrorName());
    } else {
      std::printf("BAD type %s\n", type.c_str());
      return 4;
    }
    std::fflush(stdout);
  }
  peer->CloseSocket();
  return 0;
}
